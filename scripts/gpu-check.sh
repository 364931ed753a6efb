#!/usr/bin/env bash
# What can be tried on a GPU is tried, in ten minutes at most:
#   scripts/gpu-check.sh [--device cpu] [--budget SECONDS] [PART ...]
#   scripts/gpu-check.sh pack      on a machine with an index: puts what a bare one lacks (40 MB, for
#                                  Python 3.12) into .gpu-check/packages, to be brought along
# Needs Python with torch; each part says what else. Writes gpu-check.json into $OUT (else
# .gpu-check/), which names every part: passed, failed, or not run and why. The exit code is 0.
cd "$(dirname "$0")/.." || exit 0
packages="$PWD/.gpu-check/packages"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
if [ "${1:-}" = pack ]; then
    exec "$python" -m pip install --quiet --upgrade --target "$packages" --no-deps \
        --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
        --platform manylinux2014_x86_64 --constraint constraints.txt \
        onnx-ir onnxscript ml-dtypes
fi
export PYTHONPATH="$PWD/scripts:$PWD/core:$PWD/training:$PWD/export:$PWD/serving:${PYTHONPATH:-}:$packages"
"$python" -m gpu_check "$@" || echo "gpu-check itself failed, with exit code $?" >&2
exit 0
