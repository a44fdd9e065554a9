"""llama.cpp as a peer, over one pipe: reads a command a line, answers with seconds a line.

    python llamacpp.py MODEL.gguf THREADS
    prefill N        evaluate N tokens from an empty context, logits for the last
    decode N AT      generate N tokens one by one after AT tokens of context
    batch S N        generate N tokens for each of S sequences together, after 16 tokens each

Every answer is the wall time of what the command names, without the context it needs. Greedy choice by argmax in C
(llama_sampler_init_greedy), so that Python takes no part in the time but a call per step.
"""

import ctypes
import sys
import time

import llama_cpp as lib

MODEL, THREADS = sys.argv[1], int(sys.argv[2])
CONTEXT = 4096

lib.llama_backend_init()


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def log(level, text, data):
    sys.stderr.write(text.decode(errors="replace"))


lib.llama_log_set(log, None)
model = lib.llama_model_load_from_file(MODEL.encode(), lib.llama_model_default_params())
assert model, MODEL
params = lib.llama_context_default_params()
params.n_ctx = CONTEXT
params.n_batch = params.n_ubatch = 512
params.n_seq_max = 16
params.n_threads = params.n_threads_batch = THREADS
params.kv_unified = True
context = lib.llama_init_from_model(model, params)
memory = lib.llama_get_memory(context)
greedy = lib.llama_sampler_init_greedy()
sys.stderr.write(lib.llama_print_system_info().decode() + "\n")


def evaluate(rows):
    """rows: (token, position, sequence, wants logits)"""
    batch = lib.llama_batch_init(len(rows), 0, 1)
    for index, (token, position, sequence, logits) in enumerate(rows):
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = logits
    batch.n_tokens = len(rows)
    status = lib.llama_decode(context, batch)
    assert status == 0, status
    lib.llama_batch_free(batch)


def prompt(count, sequence=0):
    for start in range(0, count, 512):
        end = min(start + 512, count)
        evaluate([(i * 37 % 1000 + 3, i, sequence, i == count - 1) for i in range(start, end)])


def prefill(count):
    lib.llama_memory_clear(memory, True)
    began = time.perf_counter()
    prompt(count)
    lib.llama_synchronize(context)
    return time.perf_counter() - began


def decode(count, at):
    lib.llama_memory_clear(memory, True)
    prompt(at)
    token = lib.llama_sampler_sample(greedy, context, -1)
    began = time.perf_counter()
    for position in range(at, at + count):
        evaluate([(token, position, 0, True)])
        token = lib.llama_sampler_sample(greedy, context, -1)
    return time.perf_counter() - began


def batch(sequences, count):
    lib.llama_memory_clear(memory, True)
    for sequence in range(sequences):
        prompt(16, sequence)
    tokens = [5 + sequence for sequence in range(sequences)]
    began = time.perf_counter()
    for position in range(16, 16 + count):
        evaluate([(tokens[s], position, s, True) for s in range(sequences)])
        tokens = [lib.llama_sampler_sample(greedy, context, s) for s in range(sequences)]
    return time.perf_counter() - began


VERBS = {"prefill": prefill, "decode": decode, "batch": batch}
print("ready", flush=True)
for line in sys.stdin:
    verb, *numbers = line.split()
    print(f"{VERBS[verb](*map(int, numbers)):.6f}", flush=True)
