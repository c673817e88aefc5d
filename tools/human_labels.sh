#!/bin/sh
# The tables of docs/photographs.md: what one memorised network tells of wrong labels that people
# gave, beside its rivals. Hours on two cores. Stop it as you like; it goes on where it was.
#
#   ROOT=FOLDER tools/human_labels.sh [NETWORK …]
#
# FOLDER holds CIFAR-10 and CIFAR-10N. Networks are runs of benchmarks.watched; those named …-50k are
# retrained five times as well, for cleanlab. PYTHON says which interpreter, RUNS where results are.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${RUNS:-runs}
root=${ROOT:?expected ROOT=FOLDER, which holds CIFAR-10 and its human labels}
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}"
[ $# -gt 0 ] || set -- worse-50k aggregate-50k random1-50k \
    worse-0 worse-1 worse-2 random1-0 random1-1 random1-2 \
    worse-50k-augmented aggregate-50k-augmented random1-50k-augmented

for name in "$@"; do
    "$python" -m benchmarks.watched "$name" --root "$root" --out "$out/watched"
    case $name in
    *-50k) "$python" -m benchmarks.folds "$name" --root "$root" --out "$out/folds" ;;
    esac
    "$python" -m benchmarks.human "$name" --root "$root" --runs "$out/watched" --folds "$out/folds" \
        --out "$out/human"
done
"$python" -m benchmarks.human_tables "$@" --root "$root" --runs "$out/watched" --out "$out/human"
