# shellcheck shell=bash
# What the scripts in ci/ share; sourced, not run.

repo=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# mkswap, mke2fs and the like are not where everybody looks.
PATH=$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin

say() { echo "${0##*/}: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# usage "$@" <<<TEXT: prints the text and ends if help is asked for.
usage() {
    case ${1-} in
    -h | --help) cat && exit 0 ;;
    esac
}

# step WHAT CMD [ARG...]: runs CMD from the top of the repository; says what it is, and how long it took.
step() {
    local what=$1 start=$SECONDS
    shift
    echo "== $what" >&2
    cd "$repo" || exit 1
    "$@" || die "failed: $what"
    echo "== $what: done in $((SECONDS - start)) s" >&2
}

# static_build [ARG...]: cargo's release build of what runs on KVM, in target/$static_target/release. The agent is alone in
# its guest, and the monitor is smaller without shared libraries. An explicit target keeps the flags away from build scripts
# and macros, which cannot be static.
static_target=x86_64-unknown-linux-gnu
static_build() {
    env RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target "$static_target" "$@"
}

# block PAGE NAME: the commands on a page of the repository that are marked so (vmm/tests/prose/blocks.rs).
block() {
    awk -v mark="<!-- run: $2 -->" '
        $0 == mark { marked = 1; next }
        marked && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }
    ' "$repo/$1" | grep . || die "$1 has no commands marked \"run: $2\"."
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "Not root, and sudo is not there: run ci/setup once as root, or install sudo."
    fi
}

# set_emulator DIR: `emulator` becomes the command of the QEMU that ci/setup unpacked in DIR, with the libraries
# beside it, or of Debian's own where there is none.
set_emulator() {
    local lib=$1/usr/lib/x86_64-linux-gnu
    emulator=(qemu-system-x86_64)
    [ ! -x "$lib/ld-linux-x86-64.so.2" ] ||
        emulator=("$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$1/usr/bin/qemu-system-x86_64"
            -L "$1/usr/share/seabios" -L "$1/usr/share/qemu")
}
