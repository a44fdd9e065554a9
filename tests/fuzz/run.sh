#!/usr/bin/env bash
# Fuzzes every target for so many seconds each (default 600): tests/fuzz/run.sh [SECONDS]. Needs a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-600}
target=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-../../target/fuzz}
# Coverage for libFuzzer, as cargo-fuzz sets it, with a stable compiler.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
cargo build --release --target "$target"
for fuzz in gguf tokenizer template; do
    found=$CARGO_TARGET_DIR/found/$fuzz
    mkdir -p "$found"
    "$CARGO_TARGET_DIR/$target/release/$fuzz" -max_total_time="$seconds" -max_len=32768 -timeout=20 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$found/" "$found" "corpus/$fuzz" 2>&1 | grep -E "^stat::|ERROR|SUMMARY|panicked" || true
    if ls "$found"/crash-* "$found"/oom-* "$found"/timeout-* >/dev/null 2>&1; then
        echo "$fuzz: found something, see $found" >&2
        exit 1
    fi
    echo "$fuzz: nothing found in $seconds s"
done
