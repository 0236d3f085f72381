#!/usr/bin/env bash
# es-core's tests on the AVX-512 path: run in Bochs, which emulates a whole PC with that instruction set, under Debian's
# kernel and with no more than busybox around them. For an x86-64 Debian 12 or newer, as root; no AVX-512 is needed.
#
#   scripts/test_avx512.sh [TEST...]   all tests, or those of the named binaries: es_core (the unit tests), kernels, ...
set -euo pipefail

target=x86_64-unknown-linux-gnu
limit=${LIMIT:-3000} # seconds for the emulator
work=$(dirname "$(cargo locate-project --workspace --message-format plain)")/target/emulated/avx512
mkdir -p "$work"

packages=(bochs bochs-term bochsbios vgabios bsdutils cpio grub-common grub-pc-bin xorriso mtools)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends --no-upgrade "${packages[@]}" >/dev/null
fi

# The guest's kernel and shell are only unpacked: this machine boots nothing and runs nothing of them.
guest=$work/guest
if [ ! -e "$guest/complete" ]; then
    apt-get -qq update
    kernel=$(apt-cache depends linux-image-cloud-amd64 | grep -o -m1 'linux-image-[0-9].*')
    mkdir -p "$work/debs" "$guest"
    (cd "$work/debs" && rm -f ./*.deb && apt-get -qq -o APT::Sandbox::User=root download "$kernel" busybox-static)
    for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$guest"; done
    rm -r "$work/debs"
    touch "$guest/complete"
fi

# Static binaries need no library in the guest.
which=()
for test in "$@"; do
    if [ "$test" = es_core ]; then which+=(--lib); else which+=(--test "$test"); fi
done
RUSTFLAGS="-C target-feature=+crt-static" cargo test --locked --package es-core --target $target \
    --target-dir "$work/target" --no-run --message-format json-render-diagnostics "${which[@]:---tests}" >"$work/build.json"
sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$work/build.json" >"$work/binaries"
[ -s "$work/binaries" ]

rm -rf "$work/initrd" "$work/iso"
mkdir -p "$work"/initrd/{bin,dev,proc,tests,tmp} "$work/iso/boot/grub"
cp "$(find "$guest" -path '*bin/busybox')" "$work/initrd/bin/busybox"
while read -r binary; do
    name=$(basename "$binary")
    strip -o "$work/initrd/tests/${name%-*}" "$binary"
done <"$work/binaries"
cat >"$work/initrd/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
exec </dev/null >/dev/ttyS0 2>&1
failed=0
if grep -q avx512f.*avx512dq.*avx512bw.*avx512vl /proc/cpuinfo; then echo "guest: has AVX-512"; else failed=1; fi
cd /tmp
for test in /tests/*; do
    echo; echo "Running $test"
    $test --test-threads=1 || failed=1
done
echo "guest: failed=$failed"
sleep 1
poweroff -f
END
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | cpio --quiet -o -H newc) >"$work/iso/boot/initrd"
cp "$(find "$guest/boot" -name 'vmlinuz-*')" "$work/iso/boot/vmlinuz"
# Bochs 2.7 gives the compact save area a wrong size, and Linux then does without AVX: it shall use the plain one.
cat >"$work/iso/boot/grub/grub.cfg" <<'END'
linux /boot/vmlinuz console=ttyS0 quiet panic=-1 nokaslr mitigations=off noxsaves clearcpuid=xsavec
initrd /boot/initrd
boot
END
grub-mkrescue -o "$work/pc.iso" "$work/iso" >"$work/iso.log" 2>&1 || { cat "$work/iso.log"; exit 1; }

cat >"$work/bochsrc" <<END
display_library: term
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
clock: sync=none
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/pc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
log: $work/bochs.log
panic: action=fatal
END
echo c >"$work/continue" # Debian's Bochs is built with the debugger, which waits for a command
rm -f "$work/serial.txt"
echo "Bochs runs $(wc -l <"$work/binaries") test binaries; its boot alone takes a minute or two"
# It needs a terminal to draw on, and ends with a panic of its own on power-off.
TERM=vt100 timeout "$limit" script -qec "bochs -q -f '$work/bochsrc' -rc '$work/continue'" /dev/null \
    </dev/null >"$work/screen.txt" 2>&1 || true
[ -e "$work/serial.txt" ] || { tail -n 20 "$work/screen.txt" "$work/bochs.log"; exit 1; }
tr -d '\r' <"$work/serial.txt" | sed -n '/^guest: has/,$p'
grep -q '^guest: has AVX-512' "$work/serial.txt" || { echo "the guest did not come up with AVX-512; see $work/serial.txt"; exit 1; }
grep -q '^guest: failed=0' "$work/serial.txt" || { echo "failed, or out of time"; exit 1; }
