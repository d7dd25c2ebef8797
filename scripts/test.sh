#!/usr/bin/env bash
# Installs what the tests need (Debian or Ubuntu) and runs them all. Leaves nothing running.
#
#   scripts/test.sh                  everything, on the oldest, the distribution's and the newest PostgreSQL that can be had
#   scripts/test.sh --all-versions   the same on every PostgreSQL from 13 to 18
#   scripts/test.sh --thorough       --all-versions, 200 segments, every object store that can be had
#                                    (scripts/object-stores.sh), the documents as a site, the examples, PostgreSQL's own
#                                    tests of recovery (scripts/postgres-tap.sh), the packages, and every test that
#                                    repeats or explores does it longer
#   scripts/test.sh --quick          no PostgreSQL: unit tests, tests/it and tests/sim
#   scripts/test.sh --packages       only the packages: builds them and tries them on a booted system (scripts/test-packages.sh)
#   scripts/test.sh --offline        installs nothing; uses what is there
#
# Environment: WALWARD_CACHE (what is downloaded once), WALWARD_TEST_SEGMENTS (WAL segments of the main job, default 20,
# 200 with --thorough), WALWARD_TEST_ROUNDS (rounds of random work and backups, 30 or 300), RUST_TEST_THREADS (default 2). Tests see --thorough as WALWARD_TEST_THOROUGH=1.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"

quick= versions=normal offline= thorough= packages=
for argument in "$@"; do
    case $argument in
        --quick) quick=yes ;;
        --all-versions) versions=all ;;
        --thorough) thorough=yes versions=all ;;
        --packages) packages=yes ;;
        --offline) offline=yes ;;
        *) die "unknown argument $argument; see the head of scripts/test.sh" ;;
    esac
done

if [ -n "$thorough" ]; then
    export WALWARD_TEST_THOROUGH=1 WALWARD_TEST_SEGMENTS=${WALWARD_TEST_SEGMENTS:-200} WALWARD_TEST_ROUNDS=${WALWARD_TEST_ROUNDS:-300}
else
    unset WALWARD_TEST_THOROUGH
fi
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-2}
began=$SECONDS
ignored=()
ran=()

ensure_toolchain
command -v systemd-analyze >/dev/null || [ -n "$offline" ] || install_packages systemd
run() {
    say "$1"
    local began_part=$SECONDS
    shift
    "$@"
    ran+=("$(printf '%4d s  %s' $((SECONDS - began_part)) "$*")")
}

report() {
    printf '\nPassed in %d s:\n' $((SECONDS - began))
    [ ${#ran[@]} = 0 ] || printf '  %s\n' "${ran[@]}"
    if [ ${#ignored[@]} -gt 0 ]; then
        printf 'Ignored, not passed:\n'
        printf '  %s\n' "${ignored[@]}"
    fi
}

packages() {
    local kind outcome began_part
    for kind in deb rpm; do
        say "package $kind"
        began_part=$SECONDS outcome=0
        scripts/test-packages.sh "$kind" || outcome=$?
        case $outcome in
            0) ran+=("$(printf '%4d s  %s' $((SECONDS - began_part)) "scripts/test-packages.sh $kind")") ;;
            77) ignored+=("the package $kind: it cannot be tried on this machine") ;;
            *) exit "$outcome" ;;
        esac
    done
}
if [ -n "$packages" ]; then
    packages
    report
    exit
fi

run "unit tests, tests without a server" cargo test --locked --lib --bins --test it
run "faults by seed" cargo test --locked --test sim
if [ -n "$quick" ]; then
    ignored+=("everything that needs PostgreSQL (--quick)")
else
    cache=$(cache_folder)
    if [ -z "$offline" ]; then
        ensure_postgres
        ensure_command zstd zstd
        ensure_command tar tar
    fi
    default_bin=$(distribution_postgres)
    [ -n "$default_bin" ] || die "there is no PostgreSQL under /usr/lib/postgresql; run without --offline to install it"
    default_major=$("$default_bin/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')

    # Object stores: one that is quick and needs no account; in the thorough run all that can be had.
    fetch_store() {
        local arguments=(fetch "$1")
        [ -z "$offline" ] || arguments=(--offline fetch "$1")
        scripts/object-stores.sh "${arguments[@]}"
    }
    fetch_store moto || die "there is no S3 server for tests (moto); run without --offline to install it"
    export WALWARD_TEST_MOTO=$cache/moto/bin/moto_server
    stores=moto
    [ -z "$thorough" ] || stores=$(scripts/object-stores.sh list)
    for store in $stores; do
        if fetch_store "$store"; then
            # What a store does not have cannot be tried on it.
            case $store in
                moto) lacking= ;;
                s3s-fs) lacking="behind_tls conforms bucket_that_a_real_store_does_not_have leaves_no_parts_at_a_real_store counted_at_a_real_store" ;;
                azurite | gcs) lacking="behind_tls leaves_no_parts_at_a_real_store counted_at_a_real_store" ;;
                *) lacking="behind_tls counted_at_a_real_store" ;;
            esac
            run "object store $store" scripts/object-stores.sh run "$store" \
                cargo test --locked --lib --test it -- --ignored real_store ${lacking:+$(printf -- '--skip %s ' $lacking)}
            [ -z "$lacking" ] || ignored+=("object store $store: $lacking")
        else
            ignored+=("object store $store: it could not be had here")
        fi
    done

    # Other versions of PostgreSQL. One that cannot be had is reported as ignored.
    case $versions in
        all) wanted="13 14 15 16 17 18" ;;
        *) wanted="13 18" ;;
    esac
    bins=$default_bin
    others=()
    for major in $wanted; do
        [ "$major" != "$default_major" ] || continue
        arguments=("$major")
        [ -z "$offline" ] || arguments=(--offline "$major")
        if bin=$(scripts/postgres-versions.sh "${arguments[@]}"); then
            bins=$bins:$bin
            others+=("pg$major")
        else
            ignored+=("PostgreSQL $major: it could not be installed here")
        fi
    done
    export WALWARD_TEST_PG=$bins

    run "PostgreSQL $default_major" cargo test --locked --test pg
    if [ "$(id -u)" = 0 ]; then
        # A file system that hangs for real is made with FUSE, which a container may not have.
        hanging=
        if [ ! -c /dev/fuse ]; then
            hanging="--skip hanging_files"
            ignored+=("data directories that hang: there is no /dev/fuse")
        fi
        # shellcheck disable=SC2086 # no word, or two
        run "as root" cargo test --locked --lib --test pg -- --ignored as_root $hanging
    else
        ignored+=("what needs to be another user (run as root): tests named as_root")
    fi
    if [ -n "$thorough" ]; then
        [ -n "$offline" ] || ensure_command pgbackrest pgbackrest
        run "what takes long" cargo test --locked --test pg -- --ignored thorough
    else
        ignored+=("what takes gigabytes (--thorough): tests named thorough")
    fi
    if [ ${#others[@]} -gt 0 ]; then
        run "other versions: ${others[*]}" cargo test --locked --test pg -- --ignored "${others[@]}"
    fi
fi

# The site, the examples, PostgreSQL's own tests. A script that ends with 2 could not have its tools.
for check in "scripts/docs.sh test" "scripts/examples.sh" "scripts/postgres-tap.sh 15 17 18"; do
    if [ -z "$thorough" ]; then
        ignored+=("$check (--thorough)")
        continue
    fi
    outcome=0
    read -r -a words <<<"$check${offline:+ --offline}"
    say "$check"
    "${words[@]}" || outcome=$?
    case $outcome in
        0) ran+=("        $check") ;;
        2) ignored+=("$check: what it needs could not be had here") ;;
        *) die "$check failed" ;;
    esac
done

if [ -n "$thorough" ]; then
    packages
else
    ignored+=("the packages (--packages)")
fi
report
