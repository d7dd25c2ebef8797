#!/usr/bin/env bash
# The documents as a site, made with mdbook from the files where they lie.
#
#   scripts/docs.sh [--offline] build     makes target/site/html
#   scripts/docs.sh [--offline] test      the same, and follows every link within it; answers 2 when mdbook cannot be had here
#
# docs/SUMMARY.md is the table of contents. What it names is copied, with what those pages link to, into a tree of the same
# shape, so that a link is the same in the source tree and on the site. That pages are true is tested by tests/it (docs::).
#
# mdbook is built from crates.io, once (some minutes; a place under the cache folder keeps it). Debian's packages are not used: the pages
# of Debian 13's lack their scripts, those of later ones look for icons in that system's folders.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"

offline= what=build
for argument in "$@"; do
    case $argument in
        --offline) offline=yes ;;
        build | test) what=$argument ;;
        *) die "unknown argument $argument; see the head of scripts/docs.sh" ;;
    esac
done
version=0.4.52
cache=$(cache_folder)
mdbook=$cache/mdbook/bin/mdbook
give_up() {
    say "mdbook: $*"
    exit 2
}

if [ ! -x "$mdbook" ]; then
    [ -z "$offline" ] || give_up "not here, and --offline was given"
    command -v cargo >/dev/null || give_up "there is no cargo to build it with"
    say "building mdbook $version under $cache (once, some minutes)"
    mkdir -p "$cache"
    # Soon rather than fast, and without what serves and watches.
    CARGO_TARGET_DIR=$cache/mdbook-build CARGO_PROFILE_RELEASE_OPT_LEVEL=0 cargo install --quiet --locked mdbook --version "$version" \
        --no-default-features --features search --root "$cache/mdbook" >&2 || give_up "cargo could not build it"
    rm -rf "$cache/mdbook-build"
fi

(ensure_python) || give_up "there is no Python to put its pages together"
site=${CARGO_TARGET_DIR:-target}/site
rm -rf "$site"
mkdir -p "$site"
/usr/bin/python3 scripts/docs/assemble.py . "$site"
say "building $site/html with $("$mdbook" --version)"
log=$site/build.log
"$mdbook" build "$site" >"$log" 2>&1 || die "mdbook failed: $(cat "$log")"
if grep -E 'WARN|ERROR' "$log" >&2; then die "mdbook has something to say"; fi
if [ "$what" = test ]; then
    /usr/bin/python3 scripts/docs/follow.py "$site/html"
fi
say "the site is in $site/html"
