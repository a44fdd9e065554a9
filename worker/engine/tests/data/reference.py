"""llama.cpp's logits for the random models of `tests/twins/families.rs` and its tokens for the vocabularies of
`tests/text/spm.rs`: writes families.json and pieces.json beside this file.

Needs `llama-cpp-python` and the folder that the tests write when `FAMILIES_OUT` names one.
"""

import json
import pathlib
import sys

import llama_cpp
import numpy as np

# llama.cpp reads no window from llama models, so what it says of one is no reference.
LEFT_OUT = {"llama-window"}
F32 = 0


def logits(path, text, context):
    model = llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_batch=len(text),
        n_ubatch=len(text),
        n_threads=1,
        logits_all=True,
        type_k=F32,
        type_v=F32,
        verbose=False,
    )
    model.eval(text)
    return np.array(model.scores[: len(text)], dtype=np.float64)


def main(folder):
    task = json.loads((folder / "task.json").read_text())
    result = {}
    for name, context in sorted(task["contexts"].items()):
        if name in LEFT_OUT:
            continue
        rows = logits(folder / f"{name}.gguf", task["text"], context)
        result[name] = [[round(float(x), 5) for x in rows[at]] for at in task["kept"]]
        print(name, rows.std(), flush=True)
    lines = [f'"{name}": {json.dumps(rows)}' for name, rows in result.items()]
    out = pathlib.Path(__file__).with_name("families.json")
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def pieces(folder):
    texts = json.loads((folder / "texts.json").read_text())
    result = {}
    for name in ["spm", "spm-prefix"]:
        model = llama_cpp.Llama(str(folder / f"{name}.gguf"), vocab_only=True, verbose=False)
        tokens = {t: model.tokenize(t.encode(), add_bos=False, special=True) for t in texts}
        result[name] = tokens
    lines = [f'"{name}": {json.dumps(tokens)}' for name, tokens in result.items()]
    out = pathlib.Path(__file__).with_name("pieces.json")
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    main(folder)
    pieces(folder)
