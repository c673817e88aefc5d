#!/bin/sh
# What needs a GPU, in one go of at most eight minutes: the tests that need one, and a table of what a
# default decode costs there (benchmarks/cost.py).
#
#   tools/gpu_check.sh [--toy] [--root ROOT] [CASE …]
#
# ROOT is what data/unpack.py wrote; without it, and with --toy, noise stands for data. With --toy all of
# it runs on the processor and is small: the tests do that. PYTHON says which interpreter.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
device=cuda
toy=
root=
cases=
while [ $# -gt 0 ]; do
    case $1 in
    --toy) device=cpu toy=--toy ;;
    --root) root=$2 && shift ;;
    *) cases="$cases $1" ;;
    esac
    shift
done
[ -n "$root" ] || toy=--toy
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}"

if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "gpu_check: $python has no torch; say with PYTHON=… which one has" >&2
    exit 2
fi
if [ $device = cuda ]; then
    if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        echo "gpu_check: no CUDA device is at hand; --toy tries the script out without one" >&2
        exit 2
    fi
    if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
        "$python" -m pytest -q -p no:cacheprovider -k "gpu or cuda" \
            tests/whole/test_gpu.py tests/linalg/test_engine.py tests/experiments/test_training.py
    else
        echo "tests: left out, pytest or hypothesis is not installed"
    fi
fi
# shellcheck disable=SC2086 # words
timeout 400 "$python" -m benchmarks.cost $toy --root "${root:-.}" --device $device $cases
