"""llama.cpp's logits and vectors for the random models of `tests/twins/families.rs` and its tokens for the vocabularies of
`tests/text/spm.rs`: writes families.json, embeddings.json and pieces.json beside this file.

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


def embedding(path, text, context, pooling):
    model = llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_batch=len(text),
        n_ubatch=len(text),
        n_threads=1,
        embedding=True,
        pooling_type=pooling,
        type_k=F32,
        type_v=F32,
        verbose=False,
    )
    model._batch.reset()
    model._batch.add_sequence(text, 0, True)
    model._ctx.decode(model._batch)
    vector = llama_cpp.llama_get_embeddings_seq(model._ctx.ctx, 0)[: model.n_embd()]
    vector = np.array(vector, dtype=np.float64)
    return vector / np.linalg.norm(vector)


def embeddings(folder):
    task = json.loads((folder / "embeddings-task.json").read_text())
    result = {}
    for name, context in sorted(task["contexts"].items()):
        if name in LEFT_OUT:
            continue
        in_file = name in task["encoders"]
        pooling = llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED if in_file else llama_cpp.LLAMA_POOLING_TYPE_MEAN
        vector = embedding(folder / f"{name}.gguf", task["text"], context, pooling)
        result[name] = [round(float(x), 6) for x in vector]
        print(name, flush=True)
    lines = [f'"{name}": {json.dumps(vector)}' for name, vector in result.items()]
    out = pathlib.Path(__file__).with_name("embeddings.json")
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
    embeddings(folder)
    pieces(folder)
