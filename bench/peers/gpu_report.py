#!/usr/bin/env python3
"""Turns what bench/gpu.sh measured into a table and data: gpu_report.py WORK SHAPE ROUNDS OUT TASK..."""

import json
import pathlib
import re
import statistics
import sys


def tokens(task):
    """Tokens that a task's time went into."""
    kind, *numbers = task.split()
    numbers = [int(number) for number in numbers]
    return numbers[0] * numbers[1] if kind == "batch" else numbers[0]


def main():
    work, shape, rounds, out, *tasks = sys.argv[1:]
    work, out, rounds = pathlib.Path(work), pathlib.Path(out), int(rounds)
    name, driver, memory = [part.strip() for part in (work / "gpu.csv").read_text().split(",")]
    correctness = json.loads((work / "correctness.json").read_text() or "{}")
    peers = json.loads((work / "peers.json").read_text() or "{}")
    sanitizer = work / "sanitizer.txt"
    ours = {}
    for quant in ["bf16", "q8_0", "q4_0"]:
        lines = (work / f"{quant}.txt").read_text().split()[1:]
        seconds = [float(line) for line in lines]
        # The first round warms up.
        counted = seconds[len(tasks) :]
        ours[quant] = {task: counted[nth :: len(tasks)] for nth, task in enumerate(tasks)}
    data = {
        "gpu": name,
        "driver": driver,
        "memory": memory,
        "shape": shape,
        "correctness": correctness,
        "seconds": ours,
        "peers": peers,
        "sanitizer": sanitizer.read_text().splitlines() if sanitizer.exists() else None,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    (out / f"gpu-{slug}.json").write_text(json.dumps(data, indent=1) + "\n")

    def rate(task, values):
        return f"{tokens(task) / statistics.median(values):.1f}" if values else "-"

    text = [f"# {name}, driver {driver}", "", f"Random weights of shape {shape}; tokens a second, medians of {rounds} rounds.", ""]
    text += ["| task | bf16 | q8_0 | q4_0 | transformers eager | compiled |", "|---|---|---|---|---|---|"]
    for task in tasks:
        cells = [rate(task, ours[quant].get(task, [])) for quant in ours]
        cells += [rate(task, peers.get(peer, {}).get(task, [])) for peer in ["eager", "compile"]]
        text.append(f"| {task} | {' | '.join(cells)} |")
    rows = correctness.get("rows", [])
    text += ["", f"Against the CPU: {len(rows) - correctness.get('wrong', 0)} of {len(rows)} comparisons within their bounds.", ""]
    text += ["| what | worst, of the spread | at most |", "|---|---|---|"]
    text += [f"| {row['what']} | {row['worst']:.6f} | {row['bound']:.3f} |" for row in rows]
    text += [""] + (data["sanitizer"] or ["compute-sanitizer was not there."])
    (out / f"gpu-{slug}.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
