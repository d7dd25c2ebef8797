#!/usr/bin/env bash
# PostgreSQL's own tests of archiving, recovery, pg_rewind and amcheck, with walward-wal in the place of cp. A test that passes with cp must
# pass with Walward's default settings, plain and encrypted.
#
#   scripts/postgres-tap.sh [--offline] [--only NAME] MAJOR...     NAME: a part of tests' names, such as 025
#
# The sources come from Debian (apt-get source), once, into the cache folder; nothing of them is in this tree. A version whose sources or
# server cannot be had here is said and left out; without any the answer is 2. Environment: WALWARD_CACHE; WALWARD_TAP_BIN (a folder with walward, walwardd and
# walward-wal; default: built here).
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"

offline= only= majors=()
while [ $# -gt 0 ]; do
    case $1 in
        --offline) offline=yes ;;
        --only)
            only=${2:?--only needs a name}
            shift
            ;;
        --*) die "unknown argument $1; see the head of scripts/postgres-tap.sh" ;;
        *) majors+=("$1") ;;
    esac
    shift
done
[ ${#majors[@]} -gt 0 ] || die "which versions? scripts/postgres-tap.sh 15 18"
cache=$(cache_folder)

give_up() {
    say "$*"
    exit 2
}

suite_of() {
    case $1 in
        13) echo bullseye ;;
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo sid ;;
        *) die "PostgreSQL $1: no suite of Debian has its sources; 13, 15, 17 and 18 can be tried" ;;
    esac
}

# The tests of one version, unpacked under the cache folder. Answers 1 when they cannot be had.
fetch_sources() {
    local major=$1 suite=$2 tree=$cache/postgresql-$1-tests apt mirror work keyring
    [ ! -e "$tree/.complete" ] || return 0
    [ -z "$offline" ] || return 1
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || return 1
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    say "fetching the sources of PostgreSQL $major (once)"
    rm -rf "$tree"
    mkdir -p "$tree"
    work=$(mktemp -d "$cache/source.XXXXXX")
    apt=$work/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    printf 'deb-src [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<APT
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt/cache";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "";
APT
    (
        cd "$work"
        export APT_CONFIG=$apt/apt.conf
        apt-get update -q >&2 && apt-get source -q --download-only "postgresql-$major" >&2
    ) || {
        rm -rf "$work" "$tree"
        return 1
    }
    tar xjf "$work"/*.orig.tar.bz2 -C "$tree" --strip-components=1 --wildcards \
        '*/src/test/perl' '*/src/test/recovery' '*/src/bin/pg_rewind' '*/contrib/amcheck' || return 1
    rm -rf "$work"
    chmod -R a+rX "$tree"
    : >"$tree/.complete"
}

[ -n "$offline" ] || {
    ensure_command prove perl
    perl -MIPC::Run -e 1 2>/dev/null || install_packages libipc-run-perl
}
perl -MIPC::Run -e 1 2>/dev/null || give_up "perl has no IPC::Run (libipc-run-perl)"

if [ -z "${WALWARD_TAP_BIN:-}" ]; then
    cargo build --locked --quiet --bins
    WALWARD_TAP_BIN=$(cargo metadata --locked --no-deps --format-version 1 |
        sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/debug
fi

# What the unprivileged user must reach, and what the tests write.
room=$(mktemp -d /tmp/walward-tap.XXXXXX)
# Servers and agents of a test that was cut off still run. The name of this folder stands in their command lines and in no others.
end_all() { pkill -KILL -f "$room/" || true; }
trap 'end_all; rm -rf "$room"' EXIT
mkdir "$room/bin" "$room/perl"
cp "$WALWARD_TAP_BIN/walward" "$WALWARD_TAP_BIN/walwardd" "$WALWARD_TAP_BIN/walward-wal" "$room/bin/"
cp scripts/postgres-tap/WalwardArchive.pm "$room/perl/"
chmod -R a+rX "$room"
as_user() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    chown postgres: "$room"
    as_user() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
fi

# Runs one test: run_one MAJOR BIN TEST cp|plain|encrypted. Its data goes when it has ended; 47 GB would be left otherwise.
run_one() {
    local major=$1 server=$2 script=$3 with=$4
    local sources=$cache/postgresql-$major-tests here_dir=$room/run encrypted= module=()
    local folder
    folder=$(dirname "$(dirname "$script")")
    end_all
    rm -rf "$here_dir"
    mkdir -p "$here_dir/log"
    [ "$(id -u)" != 0 ] || chown -R postgres: "$here_dir"
    [ "$with" = cp ] || module=("-I$room/perl" -MWalwardArchive)
    [ "$with" != encrypted ] || encrypted=1
    (
        cd "$folder"
        as_user env -i HOME="$here_dir" LANG=C.UTF-8 PATH="$server:/usr/bin:/bin" TESTDIR="$here_dir" \
            TESTDATADIR="$here_dir/tmp_check" TESTLOGDIR="$here_dir/log" PG_REGRESS=/bin/true enable_injection_points=no \
            PG_TEST_TIMEOUT_DEFAULT=120 WALWARD_TAP_BIN="$room/bin" WALWARD_TAP_ENCRYPTED="$encrypted" \
            timeout 900 perl "-I$sources/src/test/perl" -I"$folder" -I"$folder/t" "${module[@]}" "$script"
    ) >"$room/output" 2>&1
}

# The tests that archive, or read an archive.
tests_of() {
    local sources=$cache/postgresql-$1-tests
    grep -lE 'has_archiving|has_restoring|enable_archiving|enable_restoring|run_test\(.archive.\)' \
        "$sources"/src/test/recovery/t/*.pl "$sources"/src/bin/pg_rewind/t/*.pl "$sources"/contrib/amcheck/t/*.pl |
        grep -E "${only:-.}" || true
}

passed=0 failed=0 skipped=0 versions=0
for major in "${majors[@]}"; do
    suite=$(suite_of "$major")
    if ! fetch_sources "$major" "$suite"; then
        printf 'ignored  %-40s its sources could not be had here\n' "$major"
        continue
    fi
    server=$(distribution_postgres)
    if [ -z "$server" ] || ! "$server/postgres" --version | grep -q " $major\."; then
        if ! server=$(scripts/postgres-versions.sh ${offline:+--offline} "$major"); then
            printf 'ignored  %-40s its server could not be had here\n' "$major"
            continue
        fi
    fi
    versions=$((versions + 1))
    for script in $(tests_of "$major"); do
        name=$major/$(basename "$script" .pl)
        if ! run_one "$major" "$server" "$script" cp; then
            printf 'skipped  %-40s it does not pass with cp here\n' "$name"
            skipped=$((skipped + 1))
            continue
        fi
        if tail -1 "$room/output" | grep -q '# SKIP'; then
            printf 'skipped  %-40s it skips itself here\n' "$name"
            skipped=$((skipped + 1))
            continue
        fi
        for with in plain encrypted; do
            began=$SECONDS
            if run_one "$major" "$server" "$script" "$with"; then
                printf 'ok       %-40s %-9s %3d s\n' "$name" "$with" $((SECONDS - began))
                passed=$((passed + 1))
            else
                printf 'FAILED   %-40s %-9s %3d s\n' "$name" "$with" $((SECONDS - began))
                failed=$((failed + 1))
                tail -60 "$room/output" | sed 's/^/    /'
                for log in "$room"/run/log/*.log "$room"/run/tmp_check/log/*.log; do
                    [ -f "$log" ] || continue
                    printf '    --- %s\n' "$(basename "$log")"
                    tail -25 "$log" | sed 's/^/    /'
                done
            fi
        done
    done
done
rm -rf "$room/run"
[ "$versions" -gt 0 ] || give_up "none of these versions can be tried here"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
