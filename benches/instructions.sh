#!/usr/bin/env bash
# Counts the instructions that the hot paths take and compares them with those of before (benches/instructions.txt): a regression shows
# here on any machine, however busy. The build is that of the tests.
#
#   benches/instructions.sh           compares; ends with 1 when something takes a twentieth more than it did
#   benches/instructions.sh --save    writes what it counts as the new benches/instructions.txt
#
# Installs valgrind on Debian and Ubuntu. Ends with 77 when it cannot compare: without valgrind, or with another compiler, C
# library or processor than those that the counts are from.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/../scripts/common.sh"
cd "$here"
tolerance_percent=5
kept=benches/instructions.txt

cannot() {
    printf 'ignored, not passed: %s\n' "$*" >&2
    exit 77
}
(ensure_command valgrind valgrind) || cannot "there is no valgrind, and it could not be installed"
# What valgrind shows a program of the processor depends on little more than this.
vectors=$(grep -qw avx2 /proc/cpuinfo && echo avx2 || echo 'no avx2')
counter="$(rustc --version | cut -d' ' -f1,2), $(valgrind --version), $(getconf GNU_LIBC_VERSION), $(uname -m), $vectors"
if [ "${1:-}" != --save ] && [ "$(sed -n 1p "$kept")" != "# $counter" ]; then
    cannot "the counts in $kept are of $(sed -n '1s/# //p' "$kept"), and here is $counter"
fi

say "building what is counted"
program=$(cargo test --locked --bench instructions --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' || true)
[ -x "$program" ] || die "it could not be built: cargo test --locked --bench instructions --no-run"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The instructions of one round: those of three without those of one, so that getting ready counts for nothing.
taken() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 >/dev/null |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
count() {
    local one three
    one=$(taken "$1" 1) && three=$(taken "$1" 3)
    printf '%d' $(((three - one) / 2))
}

printf '# %s\n' "$counter" >"$work/counted"
worse=
while read -r name; do
    now=$(count "$name")
    printf '%s: %d\n' "$name" "$now" >>"$work/counted"
    before=$(sed -n "s/^$name: //p" "$kept" 2>/dev/null || true)
    printf '%-28s %12d  before: %12s\n' "$name" "$now" "${before:-–}"
    if [ -n "$before" ] && [ $((now * 100)) -gt $((before * (100 + tolerance_percent))) ]; then worse="$worse, $name"; fi
done < <("$program")

if [ "${1:-}" = --save ]; then
    cp "$work/counted" "$kept"
elif [ -n "$worse" ]; then
    die "this takes over $tolerance_percent % more instructions than before: ${worse#, }; mend it, or say why and run benches/instructions.sh --save"
elif [ "$(grep -c : "$work/counted")" != "$(grep -c : "$kept")" ]; then
    die "there is work that was not counted before: benches/instructions.sh --save"
fi
