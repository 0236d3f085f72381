#!/usr/bin/env bash
# es-core's tests on the NEON path: built for aarch64 and run in qemu, on an x86-64 Debian 12 or newer, as root.
#
#   scripts/test_neon.sh [TEST...]     all tests, or those of the named binaries: es_core (the unit tests), kernels, ...
set -euo pipefail

target=aarch64-unknown-linux-gnu
least=1.89 # the workspace's rust-version
work=$(dirname "$(cargo locate-project --workspace --message-format plain)")/target/emulated/neon
mkdir -p "$work"

packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
install() { DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends --no-upgrade "$@" >/dev/null; }
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    apt-get -qq update
    install "${packages[@]}"
fi

# The standard library for aarch64 fits only the compiler that came with it. Where the installed toolchain has none,
# Debian's compiler is unpacked into a folder, with the libraries for both architectures; the system's own stays as it is.
if [ ! -d "$(rustc --print target-libdir --target $target)" ]; then
    rust=$work/rust
    if [ ! -e "$rust/complete" ]; then
        # Lists of its own, so that the system needs no second architecture.
        mkdir -p "$work"/apt/lists/partial "$work"/apt/cache/archives/partial
        apt() { command "$@" -o APT::Architectures=amd64,arm64 -o Dir::State::Lists="$work/apt/lists" \
            -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root; }
        apt apt-get -qq update || true # a source without arm64 is no obstacle
        # Debian's stable releases carry a newer compiler as rustc-web; testing and backports have it as rustc.
        found=$(for name in rustc rustc-web; do
            apt apt-cache madison $name | awk -F' *[|] *' '/Packages/ { print $2, "'$name'" }'
        done | sort -rV | head -n1)
        read -r version name <<<"$found"
        dpkg --compare-versions "${version:-0}" ge $least || {
            echo "no rustc or rustc-web of at least $least in the machine's Debian sources (found: ${found:-none})" >&2
            exit 1
        }
        depends() { apt apt-cache show "$1" | awk '/^Depends: / && !n++ { gsub(/^Depends:|\([^)]*\)|,/, ""); print }'; }
        std=libstd-${name/rustc/rust}-dev
        shared=$(depends "$std:amd64=$version" | xargs)
        llvm=$(depends "$shared=$version" | grep -o 'libllvm[0-9]*')
        mkdir -p "$work/debs" "$rust"
        (cd "$work/debs" && rm -f ./*.deb &&
            apt apt-get -qq download "$name=$version" "$shared=$version" "$std:amd64=$version" "$std:arm64=$version" "$llvm")
        for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$rust"; done
        # shellcheck disable=SC2046 # a list of names
        install $(depends "$llvm")
        rm -r "$work/debs" "$work/apt"
        touch "$rust/complete"
    fi
    export RUSTC=$rust/usr/bin/rustc LD_LIBRARY_PATH=$rust/usr/lib/x86_64-linux-gnu
fi
"${RUSTC:-rustc}" --version

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
which=()
for test in "$@"; do
    if [ "$test" = es_core ]; then which+=(--lib); else which+=(--test "$test"); fi
done
cargo test --locked --package es-core --target $target --target-dir "$work/target" "${which[@]:---tests}"
