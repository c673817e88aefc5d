#!/bin/sh
# The runs that docs/reproduction.md, cifar10.md and sequel.md show: some eight hours on two cores.
# Stop it as you like; it goes on where it was. CIFAR10 names the folder of that data. Published
# tables to compare with may be given: reproduction.sh CSV…
set -e
out=${RUNS:-runs}
compare=""
for table in "$@"; do compare="$compare --compare $table"; done

run() { underscript reproduce "$@"; }

for pair in mnist-mlp fashion-mnist-cnn; do
    run $pair --runs 1 --only E1,E2,E3,E6 --out "$out/quick/$pair"
    run $pair --runs 3 --corruption 0,0.4,0.8 --only E1,E2,E3,E6 --out "$out/quick/$pair"
done
run mnist-mlp --runs 1 --corruption 0.4 --only E4,E5 --out "$out/quick/mnist-mlp"
for noise in pair instance; do
    run fashion-mnist-cnn --noise $noise --runs 1 --corruption 0.2,0.4 --only E1,E2 \
        --out "$out/quick/fashion-mnist-cnn-$noise"
done
run mnist-mlp --runs 1 --corruption 0.8 --only S1,S2 --out "$out/along/mnist-mlp"
# CIFAR-10 has to be there already, in the folder $CIFAR10: underscript gets no such data by itself.
if [ -n "${CIFAR10:-}" ]; then
    for pair in cifar10-cnn cifar10-mlp cifar10-resnet18; do
        run $pair --runs 1 --corruption 0,0.2,0.4,0.6,0.8 --samples 10000 --only E1,E2,E3,E5,E6 \
            --root "$CIFAR10" --out "$out/quick/$pair"
    done
    run cifar10-cnn --samples 50000 --runs 1 --corruption 0.4 --only E1 --root "$CIFAR10" \
        --out "$out/whole/cifar10-cnn"
    run cifar10-cnn --runs 1 --corruption 0.4 --only S1,S2 --root "$CIFAR10" \
        --out "$out/along/cifar10-cnn"
fi
# shellcheck disable=SC2086
run mnist-mlp --preset paper --runs 1 --corruption 0.8 $compare --out "$out/paper/mnist-mlp"
run mnist-mlp --preset paper --runs 1 --corruption 0.4 $compare --out "$out/paper/mnist-mlp"
