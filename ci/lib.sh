# shellcheck shell=bash
# What the scripts in ci/ share; sourced, not run.

# shellcheck disable=SC2034 # used by those who source this
repo=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

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

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "Not root, and sudo is not there: run ci/setup once as root, or install sudo."
    fi
}
