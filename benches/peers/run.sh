#!/usr/bin/env bash
# Measures Walward beside pgBackRest, pg_basebackup and Barman, and writes docs/benchmarks.md.
#
#   benches/peers/run.sh [--gigabytes N] [--runs N] [--rows WORD,WORD] [--places disk,s3,far] [--no-s3]
#
# Installs what it compares with (Debian or Ubuntu), builds the release, runs as the user postgres in a temporary folder,
# and leaves nothing running. Takes half an hour on two cores, which it wants for itself. As root.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/../../scripts/common.sh"
cd "$here"
[ "$(id -u)" = 0 ] || die "this needs root: it empties the disk's cache and starts an object store"

s3=yes
arguments=()
whole=yes
for argument in "$@"; do
    case $argument in
        --no-s3) s3= whole= ;;
        --rows | --rows=* | --places | --places=*) arguments+=("$argument") whole= ;;
        *) arguments+=("$argument") ;;
    esac
done

ensure_toolchain
ensure_postgres
ensure_command pgbackrest pgbackrest
ensure_command zstd zstd
ensure_command nginx nginx-light
ensure_command openssl openssl
cache=$(cache_folder)
if [ ! -x "$cache/barman/bin/barman-cloud-backup" ] || ! "$cache/barman/bin/python3" -c 'import boto3, snappy, zstandard' 2>/dev/null; then
    ensure_python
    say "installing Barman under $cache"
    rm -rf "$cache/barman"
    /usr/bin/python3 -m venv "$cache/barman"
    "$cache/barman/bin/pip" -q install 'barman[cloud,snappy]' zstandard
fi
cargo build --locked --release --bins

# Where the user postgres can read them, and under a parent that is not somebody's home.
stage=$(mktemp -d /tmp/walward-peers.XXXXXX)
helper=
finish() {
    [ -z "$helper" ] || kill "$helper" 2>/dev/null || true
    rm -rf "$stage"
}
trap finish EXIT
mkdir "$stage/bin"
built=${CARGO_TARGET_DIR:-target}/release
cp "$built/walward" "$built/walwardd" "$built/walward-wal" "$stage/bin"
cp -r benches/peers "$stage/peers"
mkfifo "$stage/drop"
(while read -r _ <"$stage/drop"; do echo 3 >/proc/sys/vm/drop_caches; done) &
helper=$!
chown -R postgres: "$stage"
chmod 755 "$stage"

# The kernel's accounts of a process that hides its memory, as the agent does, are readable with these two alone.
bench=(setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=+sys_ptrace,+dac_override
    --ambient-caps=+sys_ptrace,+dac_override
    env -u PGDATA HOME="$stage" TMPDIR="$stage" BENCH_DROP_CACHES="$stage/drop" PYTHONDONTWRITEBYTECODE=1
    "$cache/barman/bin/python3" "$stage/peers/bench.py" --programs "$(distribution_postgres)" --walward "$stage/bin"
    --barman "$cache/barman/bin" --out "$stage/benchmarks.md" "${arguments[@]}")
if [ -n "$s3" ]; then
    scripts/object-stores.sh run ceph "${bench[@]}"
else
    "${bench[@]}"
fi
[ -z "$whole" ] || cp "$stage/benchmarks.md" docs/benchmarks.md
