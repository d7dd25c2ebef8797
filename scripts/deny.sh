#!/usr/bin/env bash
# Licences, banned and doubled dependencies, sources: they must hold. Advisories are told where their database can be fetched: one that
# is published tomorrow is no fault of today's change. Installs cargo-deny once.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"
ensure_toolchain

version=0.20.2
root=$(cache_folder)/cargo-deny
if ! "$root/bin/cargo-deny" --version 2>/dev/null | grep -qF "$version"; then
    say "building cargo-deny $version under $root (once, some minutes)"
    # Without optimisation: it is built longer than it will ever run.
    CARGO_TARGET_DIR=$root/target cargo install cargo-deny --version "$version" --locked --debug --no-default-features --root "$root" >&2
    rm -rf "$root/target"
fi
deny() { "$root/bin/cargo-deny" --all-features --locked "$@"; }

deny check bans licenses sources
if timeout 60 "$root/bin/cargo-deny" --all-features --locked fetch db >/dev/null 2>&1; then
    deny check advisories || say 'told, not failed: there are advisories for what is used here (above)'
else
    say 'ignored, not passed: advisories (their database cannot be fetched from here)'
fi
