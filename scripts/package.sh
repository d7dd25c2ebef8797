#!/usr/bin/env bash
# Builds the release and makes a package of it, checks it, and prints its path on standard output.
#
#   scripts/package.sh deb [--revision N] [--output FOLDER]
#   scripts/package.sh rpm [--revision N] [--output FOLDER]
#
# The folder is packages/ in cargo's target folder unless said otherwise. Installs what it needs on Debian and Ubuntu. Checked are: the
# oldest glibc that the programs run on, that they are stripped, the list of dependencies that is linked into them
# (cargo-auditable), and the package itself, by lintian or rpmlint.
#
# WALWARD_PACKAGE_PROFILE=dev packages a quick build instead: for work on the packages, not for use. Ends with 77 when a tool that it
# needs could not be had.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"

# The newest glibc that the programs may ask for. Ubuntu 22.04 has 2.35, Debian 12 has 2.36, Red Hat 10 has 2.39. Red Hat 9 has 2.34: a
# compiler of today unwinds with what came in 2.35 (build.rs), so a package for it is built on it.
glibc_floor=2.35
auditable_version=0.7.7

usage() { die "usage: scripts/package.sh deb|rpm [--revision N] [--output FOLDER]"; }
kind=${1:-}
case $kind in deb | rpm) shift ;; *) usage ;; esac
target=${CARGO_TARGET_DIR:-target}
revision=1
output=$target/packages
while [ $# -gt 0 ]; do
    case $1 in
        --revision) revision=${2:?--revision needs a number} ;;
        --output) output=${2:?--output needs a folder} ;;
        *) usage ;;
    esac
    shift 2
done
mkdir -p "$output"
output=$(cd "$output" && pwd)

cannot() {
    say "$*"
    exit 77
}
need() { (ensure_command "$@") || cannot "there is no $1, and it could not be installed"; }
ensure_toolchain
need objdump binutils
need perl perl
if [ "$kind" = deb ]; then
    need dh debhelper
    need dpkg-buildpackage dpkg-dev
    need lintian lintian
else
    need rpmbuild rpm
    need rpmlint rpmlint
fi
auditable=$(cache_folder)/cargo-auditable
if ! grep -qsF "cargo-auditable $auditable_version " "$auditable/.crates.toml"; then
    say "building cargo-auditable $auditable_version under $auditable (once)"
    CARGO_TARGET_DIR=$auditable/target cargo install cargo-auditable --version "$auditable_version" --locked --debug --force \
        --root "$auditable" >&2 || cannot "cargo-auditable could not be built"
    rm -rf "$auditable/target"
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
built=$work/walward-$version/built
mkdir -p "$built"/{bin,man,etc,completions}

build() {
    local profile=${WALWARD_PACKAGE_PROFILE:-release}
    say "building the programs ($profile)"
    local folder=$target/$profile program words=(--bins)
    if [ "$profile" = dev ]; then
        # With something that has the tests' dependencies, those need not be built again.
        folder=$target/debug words+=(--bench instructions)
    fi
    PATH=$auditable/bin:$PATH cargo auditable build --locked --profile "$profile" "${words[@]}" >&2
    for program in walward walwardd walward-wal; do
        strip --strip-unneeded -o "$built/bin/$program" "$folder/$program"
        chmod 0755 "$built/bin/$program"
    done
    # What is linked in, for whoever audits: name, version, licence.
    dependencies_of walward >"$built/dependencies.txt"
}

# The package itself and all that it is built of: name, version, licence.
dependencies_of() {
    cargo tree --locked --package "$1" --edges normal --prefix none --format '{p} {l}' |
        sed -E 's/ \(\*\)$//; s/ \(proc-macro\)//; s# \(/[^)]*\)##; s/^([^ ]+) v/\1 /' | sort -u
}

# The packages that the section .dep-v0 of a program lists: zlib over JSON. They are what cargo metadata knows of, which are a few
# more than are linked.
linked_in() {
    objcopy --dump-section ".dep-v0=$work/dependencies" "$1" /dev/null
    perl -MCompress::Zlib -MJSON::PP -0777 -ne \
        'for (@{decode_json(uncompress($_))->{packages}}) { print "$_->{name} $_->{version}\n" }' \
        "$work/dependencies" | sort -u
}

check_programs() {
    local program asked
    for program in "$built"/bin/*; do
        asked=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -1)
        [ "$(printf '%s\n' "$asked" "$glibc_floor" | sort -V | tail -1)" = "$glibc_floor" ] ||
            die "$program needs glibc $asked, and the floor is $glibc_floor: build on an older distribution"
        ! objdump -h "$program" | grep -q '\.symtab\|\.debug_info' || die "$program is not stripped"
        linked_in "$program" >"$work/linked"
        case $program in
            */walward-wal) dependencies_of walward-wire ;;
            *) cat "$built/dependencies.txt" ;;
        esac | cut -d' ' -f1,2 | sort -u | comm -23 - "$work/linked" >"$work/unlisted"
        [ ! -s "$work/unlisted" ] || die "$program does not list what is linked into it: $(tr '\n' ',' <"$work/unlisted")"
    done
    say "the programs are stripped, list their dependencies, and run with glibc $glibc_floor and later"
}

stage() {
    "$built/bin/walward" manual "$built/man"
    "$built/bin/walward" completions bash >"$built/completions/walward"
    "$built/bin/walward" completions zsh >"$built/completions/_walward"
    "$built/bin/walward" completions fish >"$built/completions/walward.fish"
    cp packaging/walward.toml "$built/etc/walward.toml"
}

make_deb() {
    local tree=$work/walward-$version
    cp -a packaging/deb "$tree/debian"
    cp -a README.md CHANGELOG.md docs config "$tree/"
    cp systemd/walward.service systemd/walward.socket "$tree/debian/"
    mkdir -p "$tree/debian/source"
    printf '3.0 (quilt)\n' >"$tree/debian/source/format"
    printf 'walward (%s-%s) stable; urgency=medium\n\n  * Version %s; changelog.gz says what is new.\n\n -- %s  %s\n' \
        "$version" "$revision" "$version" "$(sed -n 's/^Maintainer: //p' packaging/deb/control)" \
        "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" >"$tree/debian/changelog"
    [ -z "${WALWARD_PACKAGE_PROFILE:-}" ] || export DPKG_DEB_COMPRESSOR_TYPE=gzip DPKG_DEB_COMPRESSOR_LEVEL=1
    say "making the Debian package"
    (cd "$tree" && dpkg-buildpackage --build=binary --no-sign) >&2
    local package
    package=$(basename "$work"/walward_*.deb)
    say "lintian"
    lintian --no-cfg --allow-root --fail-on error,warning --tag-display-limit 0 "$work/$package" >&2
    cp "$work/$package" "$output/"
    printf '%s\n' "$output/$package"
}

make_rpm() {
    local root=$built/root share page
    install -d "$root"/usr/{bin,lib/systemd/system} "$root"/etc/walward/conf.d "$root"/var/{lib,spool}/walward
    share=$root/usr/share
    install -d "$share"/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d,licenses/walward}
    install -m 0755 "$built"/bin/* "$root/usr/bin/"
    install -m 0644 systemd/walward.service systemd/walward.socket "$root/usr/lib/systemd/system/"
    install -m 0640 "$built/etc/walward.toml" "$root/etc/walward/walward.toml"
    install -m 0644 "$built/completions/walward" "$share/bash-completion/completions/"
    install -m 0644 "$built/completions/_walward" "$share/zsh/site-functions/"
    install -m 0644 "$built/completions/walward.fish" "$share/fish/vendor_completions.d/"
    for page in "$built"/man/*; do
        install -D -m 0644 "$page" "$share/man/man${page##*.}/$(basename "$page")"
        gzip -9n "$share/man/man${page##*.}/$(basename "$page")"
    done
    install -m 0644 LICENSE "$share/licenses/walward/LICENSE"
    install -D -m 0644 config/walward.toml "$share/doc/walward/examples/walward.toml"
    install -m 0644 README.md CHANGELOG.md "$built/dependencies.txt" "$share/doc/walward/"
    cp -r docs "$share/doc/walward/docs"
    cp packaging/rpm/walward.spec "$work/"
    printf '\n%%changelog\n* %s %s - %s-%s\n- Version %s; CHANGELOG.md says what is new.\n' \
        "$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" "$(sed -n 's/^Packager: *//p' "$work/walward.spec")" \
        "$version" "$revision" "$version" >>"$work/walward.spec"
    say "making the RPM"
    rpmbuild -bb --define "_topdir $work/rpm" --define "_rpmdir $work" --define "built $built" \
        --define "walward_version $version" --define "release_number $revision" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        "$work/walward.spec" >&2
    local file
    file=$(find "$work" -name 'walward-*.rpm' | head -1)
    say "rpmlint"
    rpmlint --config packaging/rpm/rpmlint.toml "$file" >&2
    cp "$file" "$output/"
    printf '%s\n' "$output/$(basename "$file")"
}

build
check_programs
stage
"make_$kind"
