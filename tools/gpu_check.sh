#!/bin/sh
# What needs a GPU, in one go of at most eight minutes: the tests that need one, and a table of what a
# default decode costs there (benchmarks/cost.py).
#
#   tools/gpu_check.sh [--toy] [--root ROOT] [CASE …]
#   tools/gpu_check.sh --full [--toy] [--root ROOT] [--out DIR] [--seconds N]
#
# ROOT is what data/unpack.py wrote; without it, and with --toy, noise stands for data. With --toy all of
# it runs on the processor and is small: the tests do that. PYTHON says which interpreter.
#
# With --full it runs, in place of these, the paper's experiments with CIFAR-10 at their own size: all
# 50,000 images and the whole ResNet-18. It stops after N seconds (300 by default); what is finished in DIR
# (runs/full by default) is kept, and the same command goes on.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
device=cuda
toy=
root=
cases=
full=
out=runs/full
seconds=300
while [ $# -gt 0 ]; do
    case $1 in
    --toy) device=cpu toy=--toy ;;
    --root) root=$2 && shift ;;
    --full) full=--full ;;
    --out) out=$2 && shift ;;
    --seconds) seconds=$2 && shift ;;
    *) cases="$cases $1" ;;
    esac
    shift
done
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}"

if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "gpu_check: $python has no torch; say with PYTHON=… which one has" >&2
    exit 2
fi
if ! why=$("$python" -c 'import underscript.experiments.reproduce' 2>&1); then
    echo "gpu_check: $python cannot import underscript: $(echo "$why" | tail -n 1); pip install -e . there" >&2
    exit 2
fi
if [ $device = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu_check: no CUDA device is at hand; --toy tries the script out without one" >&2
    exit 2
fi

if [ -n "$full" ]; then
    if [ -z "$toy" ] && [ ! -d "$root/cifar-10-batches-bin" ]; then
        echo "gpu_check: expected --root ROOT with cifar-10-batches-bin for --full; found none in '$root'" >&2
        exit 2
    fi
    end=$(($(date +%s) + seconds))
    unfinished=
    # Stopped by an interrupt, the command ends in order and keeps what is finished.
    grid() {
        left=$((end - $(date +%s)))
        status=124
        if [ $left -ge 20 ]; then
            status=0
            timeout -s INT -k 20 $left "$python" -m underscript reproduce "$@" --preset quick --runs 1 \
                --only E1,E2,E3,E5,E6 --device $device --out "$out/$1" || status=$?
        fi
        case $status in
        0) ;;
        124 | 130 | 137) unfinished="$unfinished $1" ;;
        *) exit $status ;;
        esac
    }
    if [ -n "$toy" ]; then
        grid digits-cnn --corruption 0.4 --samples 200
    else
        for pair in cifar10-mlp cifar10-cnn; do
            grid $pair --corruption 0,0.2,0.4,0.6,0.8 --samples 50000 --root "$root"
        done
        grid cifar10-resnet18 --corruption 0,0.2,0.4,0.6,0.8 --samples 50000 --width 1 \
            --memory 24GB --root "$root"
    fi
    [ -z "$unfinished" ] || echo "not finished after $seconds s:$unfinished; the same command goes on"
    exit 0
fi

[ -n "$root" ] || toy=--toy
if [ $device = cuda ]; then
    if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
        "$python" -m pytest -q -p no:cacheprovider -k "gpu or cuda" \
            tests/whole/test_gpu.py tests/linalg/test_engine.py tests/experiments/test_training.py
    else
        echo "tests: left out, pytest or hypothesis is not installed"
    fi
fi
# shellcheck disable=SC2086 # words
timeout 400 "$python" -m benchmarks.cost $toy --root "${root:-.}" --device $device $cases
