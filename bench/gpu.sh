#!/usr/bin/env bash
# The engine on an NVIDIA GPU: is it right, and how fast is it? Builds nothing.
#
#   cargo build --release && bench/gpu.sh [--binary target/release/ollamamax] [--device cuda:0] [--shape 8b] [--out bench/results]
#
# Needs a driver and NVRTC (`pip install nvidia-cuda-nvrtc-cu12`, or a directory named by OLLAMAMAX_CUDA_LIBRARIES). Models of random weights
# are made in $WORK (default: a directory that is removed). With PyTorch and transformers there, the same shape runs on them, too; with
# compute-sanitizer there, its memcheck and racecheck look at every kernel. Writes gpu-NAME.json and gpu-NAME.md.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/release/ollamamax device=cuda:0 shape=8b out=bench/results rounds=3
while [ $# -gt 0 ]; do
    case $1 in
        --binary | --device | --shape | --out | --rounds) declare "${1#--}=$2" && shift 2 ;;
        *) echo "unknown option $1" >&2 && exit 2 ;;
    esac
done
[ -x "$binary" ] || { echo "no binary at $binary: cargo build --release" >&2 && exit 2; }
command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: is there an NVIDIA driver?" >&2 && exit 2; }
if [ -z "${WORK:-}" ]; then
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
fi
mkdir -p "$WORK" "$out"

index=${device#cuda:}
nvidia-smi --id="$index" --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$WORK/gpu.csv"
cat "$WORK/gpu.csv"

echo "correctness"
right=0
"$binary" bench device --device "$device" --json >"$WORK/correctness.json" || right=$?
"$binary" bench device --device "$device" || true
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        code=0
        compute-sanitizer --tool "$tool" --error-exitcode 99 "$binary" bench device --device "$device" \
            >"$WORK/$tool.txt" 2>&1 || code=$?
        echo "$tool: exit $code, $(tail -n 1 "$WORK/$tool.txt")" | tee -a "$WORK/sanitizer.txt"
    done
fi

# A task a line, as `bench engine --serve` takes them; each is run once before it counts.
tasks=("prefill 128" "prefill 512" "prefill 2048" "prefill 8192" "decode 128 16" "decode 128 2048")
for sequences in 1 8 32 64 128 256; do tasks+=("batch $sequences 128"); done
for quant in bf16 q8_0 q4_0; do
    model=$WORK/$shape-$quant.gguf
    [ -f "$model" ] || "$binary" synth --shape "$shape" --quant "$quant" --seed 1 -o "$model"
    for _ in $(seq 0 "$rounds"); do printf '%s\n' "${tasks[@]}"; done \
        | "$binary" bench engine "$model" --device "$device" --sequences 256 --context 8704 --serve >"$WORK/$quant.txt" \
        || echo "$quant: failed, see above" >&2
done

python3 bench/peers/gpu.py --shape "$shape" --device "$index" --rounds "$rounds" >"$WORK/peers.json" || echo '{}' >"$WORK/peers.json"
python3 bench/peers/gpu_report.py "$WORK" "$shape" "$rounds" "$out" "${tasks[@]}"
exit "$right"
