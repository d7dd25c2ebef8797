#!/usr/bin/env bash
# Feeds every parser with made-up bytes for SECONDS each; fails on the first panic, and keeps the bytes that caused it.
#
#   scripts/fuzz.sh SECONDS [TARGET...]
#
# Needs a C++ compiler, no other toolchain: the coverage that libFuzzer goes by is a stable option of the compiler.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET...]}
shift
cd "$here/fuzz"
ensure_toolchain
ensure_command c++ g++
ensure_command zstd zstd

targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

host=$(rustc -vV | sed -n 's/^host: //p')
flags='--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1'
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
done
say "building ${targets[*]}"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$here/target}/fuzz
# --target keeps build scripts and macros free of the instrumentation.
RUSTFLAGS=$flags cargo build --release --target "$host" --bins

# What to begin with, where made-up bytes would take too long to look like anything.
seeds() {
    local fixtures=$here/tests/fixtures
    case $1 in
        segment_facts) find "$fixtures"/repo-v1/facts -type f ;;
        object) find "$fixtures"/repo-v1/plain -type f ! -name '*.json' ;;
        manifest) find "$fixtures"/repo-v1/plain -name manifest ;;
        repository_files) find "$fixtures"/repo-v1 -name '*.json' ! -path '*/gap/*' ;;
        gap_record) find "$fixtures"/repo-v1 -path '*/gap/*' -type f ;;
        pg_control) find "$fixtures"/pg -name pg_control ;;
        wal_page | wal_record) find "$fixtures"/pg -name '*.head' ;;
        config) printf '%s\n' "$here/config/walward.toml" ;;
    esac
}

for target in "${targets[@]}"; do
    say "$target for $seconds s"
    mkdir -p "corpus/$target" "artifacts/$target"
    while IFS= read -r file; do
        seed=corpus/$target/seed-$(sha256sum <"$file" | cut -c1-16)
        # The target is handed a manifest's content, not the object around it.
        if [ "$target" = manifest ]; then zstd -qdc "$file" >"$seed"; else cp "$file" "$seed"; fi
    done < <(seeds "$target")
    log=$(mktemp)
    if ! "$CARGO_TARGET_DIR/$host/release/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
        tail -40 "$log" >&2
        rm "$log"
        die "$target failed; the bytes are under fuzz/artifacts/$target"
    fi
    grep -E 'number_of_executed_units|new_units_added|peak_rss_mb' "$log" | sed "s/^/    /"
    rm "$log"
done
