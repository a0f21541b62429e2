#!/usr/bin/env bash
# Runs every kernel under NVIDIA's compute-sanitizer: stray accesses, races in shared memory, uninitialised reads,
# barriers. Needs a card. initcheck also reports the padding that kernels load and never use, so it fails nothing.
# The tests of offsets beyond 32 bits take 18 GB, which the tools multiply: they are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v compute-sanitizer >/dev/null || { echo "benchmarks/sanitize.sh: compute-sanitizer is not here"; exit 0; }
# One allocation per tensor, so that an access beyond a tensor is out of bounds.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m pytest -m gpu -k "not offsets_beyond_32_bits" tests
done
compute-sanitizer --tool initcheck "$python" -m pytest -m gpu -k "not offsets_beyond_32_bits" tests
