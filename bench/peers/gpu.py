#!/usr/bin/env python3
"""Hugging Face transformers on a GPU: a model of the same shape with random weights, eager and compiled with a static cache.

Prints seconds as JSON: {"eager": {"prefill 2048": [...], "decode 128 16": [...]}, "compile": {...}}; an empty object where PyTorch or
transformers are not there.
"""

import argparse
import json
import sys
import time

SHAPES = {
    "1b": dict(layers=16, width=2048, feed_forward=8192, heads=32, kv_heads=8, head_width=64),
    "3b": dict(layers=28, width=3072, feed_forward=8192, heads=24, kv_heads=8, head_width=128),
    "8b": dict(layers=32, width=4096, feed_forward=14336, heads=32, kv_heads=8, head_width=128),
}
VOCABULARY = 128256


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--device", default="0")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, StaticCache
    except ImportError as error:
        print(f"no peer: {error}", file=sys.stderr)
        print("{}")
        return
    device = torch.device(f"cuda:{options.device}")
    shape = SHAPES[options.shape]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape["width"],
        intermediate_size=shape["feed_forward"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_width"],
        max_position_embeddings=8704,
        torch_dtype=torch.bfloat16,
    )
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config).eval()

    def timed(act):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        act()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began

    def prefill(forward, tokens):
        ids = torch.randint(VOCABULARY, (1, tokens), device=device)
        cache = StaticCache(config=config, max_cache_len=tokens + 256, device=device, dtype=torch.bfloat16)
        positions = torch.arange(tokens, device=device)
        return lambda: forward(input_ids=ids, past_key_values=cache, cache_position=positions, use_cache=True)

    def decode(step, tokens, at):
        cache = StaticCache(config=config, max_cache_len=at + tokens + 1, device=device, dtype=torch.bfloat16)
        ids = torch.randint(VOCABULARY, (1, at), device=device)
        model(input_ids=ids, past_key_values=cache, cache_position=torch.arange(at, device=device), use_cache=True)

        def run():
            token = torch.randint(VOCABULARY, (1, 1), device=device)
            for nth in range(tokens):
                position = torch.tensor([at + nth], device=device)
                logits = step(input_ids=token, past_key_values=cache, cache_position=position, use_cache=True).logits
                token = logits[:, -1].argmax(-1, keepdim=True)

        return run

    results = {}
    with torch.inference_mode():
        compiled = torch.compile(model.forward, mode="reduce-overhead")
        for name, step in [("eager", model.forward), ("compile", compiled)]:
            rows = {"prefill 2048": [], "decode 128 16": []}
            for nth in range(options.rounds + 1):
                seconds = [timed(prefill(model.forward, 2048)), timed(decode(step, 128, 16))]
                # The first round compiles and warms up.
                if nth > 0:
                    for row, value in zip(rows.values(), seconds):
                        row.append(value)
            results[name] = rows
    print(json.dumps(results))


if __name__ == "__main__":
    main()
