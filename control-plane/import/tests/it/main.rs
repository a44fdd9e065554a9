//! Import against what is known of it: ggml's own blocks, the engine's logits, llama.cpp's files, and files that lie.

mod adapters;
mod blocks;
mod checkpoints;
mod hostile;
mod smollm2;
mod support;
