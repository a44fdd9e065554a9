#!/usr/bin/env python3
"""The engine beside llama.cpp: the same files, the same threads, turn by turn in one run.

    cargo build --release && python3 bench/peers/compare.py MODEL.gguf [--threads 2] [--rounds 5]

Installs llama-cpp-python from the package index into target/peers (built from source for this processor), makes the other
weight types of the same model with llama.cpp's own quantiser and a Q4_K model of random weights with ours, runs every task
on both engines in turn, and writes a table, the raw seconds and a plot into bench/results.

Matrix tiles (AMX) are left out of the peer's build: its kernels for them fault on some machines (ggml_backend_amx_mul_mat).
--tiles builds it with them.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "peers"
RESULTS = ROOT / "bench" / "results"
PEER = "llama-cpp-python==0.3.36"
NO_TILES = "-mno-amx-int8 -mno-amx-bf16 -mno-amx-tile"

TASKS = ["prefill 512", "decode 128 16", "decode 64 2000", "batch 8 64"]
NAMES = {
    "prefill 512": "prompt of 512",
    "decode 128 16": "128 tokens after 16",
    "decode 64 2000": "64 tokens after 2000",
    "batch 8 64": "8 sequences of 64 together",
    "repeat 512": "the same prompt of 512 again",
}
TOKENS = {"prefill 512": 512, "decode 128 16": 128, "decode 64 2000": 64, "batch 8 64": 512, "repeat 512": 512}


def install(tiles):
    """The peer's Python, installed once."""
    venv = WORK / ("venv-tiles" if tiles else "venv")
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        flags = "-DGGML_NATIVE=ON"
        if not tiles:
            flags += f" '-DCMAKE_C_FLAGS={NO_TILES}' '-DCMAKE_CXX_FLAGS={NO_TILES}'"
        # A cached wheel would be one that was built with other flags.
        pip = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", PEER]
        subprocess.run(pip, check=True, env=os.environ | {"CMAKE_ARGS": flags})
        (venv / "ready").touch()
    return python


QUANTISE = """
import sys, llama_cpp as lib
source, out, kind = sys.argv[1:]
params = lib.llama_model_quantize_default_params()
params.ftype, params.allow_requantize = int(kind), True
sys.exit(lib.llama_model_quantize(source.encode(), out.encode(), params))
"""


def models(python, source):
    """Name and file of every model that is compared."""
    yield "Q4_1", source
    for name, kind in [("Q4_0", 2), ("Q8_0", 7)]:
        out = WORK / f"{source.stem}-{name}.gguf"
        if not out.exists():
            made = subprocess.run([python, "-c", QUANTISE, source, out, str(kind)], capture_output=True)
            if made.returncode:
                sys.exit(made.stderr.decode(errors="replace"))
        yield name, out
    out = WORK / "random-Q4_K.gguf"
    if not out.exists():
        synth = ["cargo", "run", "--release", "--quiet", "-p", "ollamamax-engine", "--example", "synth", "--"]
        subprocess.run(synth + [source, "Q4_K", out], check=True, cwd=ROOT)
    yield "Q4_K, random weights", out


class Engine:
    """A process that answers tasks with seconds."""

    def __init__(self, command):
        self.log = open(WORK / "engine.log", "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{command[0]} did not start, see {self.log.name}")

    def run(self, task):
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            sys.exit(f"no answer to `{task}`, see {self.log.name}")
        return float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def measure(python, name, model, threads, rounds):
    binary = ROOT / "target" / "release" / "ollamamax"
    ours = Engine([binary, "bench", "engine", "--serve", "--threads", str(threads), model])
    peer = Engine([python, ROOT / "bench" / "peers" / "llamacpp.py", model, str(threads)])
    seconds = {(task, who): [] for task in TASKS + ["repeat 512"] for who in ("ours", "peer")}
    for number in range(rounds + 1):
        for task in TASKS:
            pair = [("ours", ours), ("peer", peer)]
            # Who goes first changes, and the first round only warms up.
            for who, engine in pair if number % 2 else reversed(pair):
                took = engine.run(task)
                if number:
                    seconds[task, who].append(took)
        took = ours.run("repeat 512")
        if number:
            seconds["repeat 512", "ours"].append(took)
    ours.close()
    peer.close()
    rows = []
    for (task, who), values in seconds.items():
        if values:
            rows.append({"model": name, "task": task, "who": who, "tokens": TOKENS[task], "seconds": values})
    return rows


def rate(row):
    return row["tokens"] / statistics.median(row["seconds"])


def spread(row):
    return f"{row['tokens'] / max(row['seconds']):.0f} to {row['tokens'] / min(row['seconds']):.0f}"


def table(rows):
    by = {(r["model"], r["task"], r["who"]): r for r in rows}
    lines = ["| model | task | tokens/s | spread | llama.cpp | spread | ratio |", "|---|---|---|---|---|---|---|"]
    for model in dict.fromkeys(r["model"] for r in rows):
        for task in TASKS:
            ours, peer = by[model, task, "ours"], by[model, task, "peer"]
            lines.append(
                f"| {model} | {NAMES[task]} | {rate(ours):.0f} | {spread(ours)} "
                f"| {rate(peer):.0f} | {spread(peer)} | {rate(ours) / rate(peer):.2f} |"
            )
        again, cold = by[model, "repeat 512", "ours"], by[model, "prefill 512", "ours"]
        share = statistics.median(again["seconds"]) / statistics.median(cold["seconds"])
        lines.append(f"| {model} | {NAMES['repeat 512']} | {rate(again):.0f} | {spread(again)} | | | {share:.3f} of the time |")
    return "\n".join(lines)


def plot(rows):
    """Bars of ratios, as SVG."""
    by = {(r["model"], r["task"], r["who"]): r for r in rows}
    bars = []
    for model in dict.fromkeys(r["model"] for r in rows):
        for task in TASKS:
            bars.append((f"{model}: {NAMES[task]}", rate(by[model, task, "ours"]) / rate(by[model, task, "peer"])))
    most = max(2.0, max(ratio for _, ratio in bars))
    left, width, step = 300, 420, 24
    height = step * len(bars) + 50
    x = lambda ratio: left + width * ratio / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="18">tokens per second, as a multiple of llama.cpp</text>',
    ]
    for index, (name, ratio) in enumerate(bars):
        y = 30 + index * step
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{x(ratio) - left:.1f}" height="{step - 6}" fill="#3b6ea5"/>')
        parts.append(f'<text x="{x(ratio) + 6:.1f}" y="{y + 14}">{ratio:.2f}</text>')
    parts.append(f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="26" y2="{height - 20}" stroke="#c33" stroke-dasharray="4 3"/>')
    return "\n".join(parts + ["</svg>", ""])


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--tiles", action="store_true")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    python = install(args.tiles)
    rows = []
    for name, model in models(python, args.model.resolve()):
        if args.only in name:
            rows += measure(python, name, model, args.threads, args.rounds)
            print(table([row for row in rows if row["model"] == name]), flush=True)
            write(args, rows)


def write(args, rows):
    """Writes what there is; models that an earlier run measured stay."""
    raw = RESULTS / "engine-peers.json"
    known = json.loads(raw.read_text())["rows"] if raw.exists() else []
    fresh = {row["model"] for row in rows}
    rows = sorted([row for row in known if row["model"] not in fresh] + rows, key=lambda row: row["model"])
    about = (
        f"{args.model.name} and its siblings on {processor()}, {args.threads} threads, medians of {args.rounds} rounds or more, "
        f"both engines in turn; {PEER}{'' if args.tiles else ' without AMX'}, ours with the best tier of the machine. Load before: {os.getloadavg()[0]:.1f}."
    )
    (RESULTS / "engine-peers.md").write_text(
        f"# The engine beside llama.cpp\n\n{about}\n\n{table(rows)}\n\n![ratios](engine-peers.svg)\n\n"
        f"Repeat with `python3 bench/peers/compare.py {args.model.name}`.\n"
    )
    raw.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (RESULTS / "engine-peers.svg").write_text(plot(rows))


main()
