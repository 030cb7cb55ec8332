#!/usr/bin/env bash
# Packs all that a machine with an NVIDIA card needs to check and measure the CUDA engine into bin/card: two programs that
# need libc and the driver alone, and run.sh. Carry the folder there and run
#
#     card/run.sh [DATA]      DATA: a folder with IDX files of 28x28 digits; without it, synthetic digits are used
#
# It takes some minutes, ends at the first fault, and prints the table for docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/.."
eval "$(scripts/cuda.sh env)"
mkdir -p bin/card
go test -c -tags cuda -o bin/card/gpu.test ./gpu
go build -tags cuda -trimpath -o bin/card/card ./gpu/cmd/card
cat >bin/card/run.sh <<'RUN'
#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
data=${1:+--data=$(realpath "$1")}
export CUDA_DRIVER=${CUDA_DRIVER:-libcuda.so.1}
# First whether the driver takes the kernels and computes the right bits, then speed.
./gpu.test -test.v -test.timeout 15m -drawn "${DRAWN:-300}" | grep -v '^=== RUN\|^    --- PASS'
./card $data "${@:2}"
RUN
chmod +x bin/card/run.sh
du -h bin/card/*
