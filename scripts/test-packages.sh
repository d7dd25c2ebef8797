#!/usr/bin/env bash
# The packages on a real system. deb: a clean Debian is booted in a container of its own; there from `apt install` to a restored
# database, with a key that only root can read, an upgrade under load, removal and purge. rpm: installed into a root of its own, where its
# files, owners and scripts are looked at, and removed.
#
#   scripts/test-packages.sh [deb] [rpm]      both unless said
#
# Builds the packages (scripts/package.sh), or takes them from WALWARD_PACKAGES. Needs root, and a kernel on which systemd-nspawn
# boots a system: where it cannot, says so and exits with 77, which is not a success. Leaves nothing running, mounted or installed, but for the
# clean system's archive in the cache.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"

cannot() {
    printf 'ignored, not passed: %s\n' "$*" >&2
    exit 77
}
[ "$(id -u)" = 0 ] || cannot "the tests of the packages boot a system, which only root can"
[ $# -gt 0 ] || set -- deb rpm
need() { (ensure_command "$@") || cannot "there is no $1, and it could not be installed"; }

cache=$(cache_folder)
mkdir -p "$cache"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/walward-packages-XXXXXX")
container= script_pid=
finish() {
    local outcome=$?
    trap - EXIT
    if [ -n "$container" ]; then
        # An orderly halt; the second one ends at once.
        kill "$container" 2>/dev/null || true
        for _ in $(seq 300); do
            kill -0 "$container" 2>/dev/null || break
            sleep 0.1
        done
        kill "$container" 2>/dev/null || true
        sleep 0.5
        kill -KILL "$container" 2>/dev/null || true
    fi
    [ -z "$script_pid" ] || kill "$script_pid" 2>/dev/null || true
    rm -rf "$work"
    exit "$outcome"
}
trap finish EXIT
trap 'exit 130' INT TERM

# A clean Debian of the host's release with systemd and its PostgreSQL.
. /etc/os-release
system=$cache/system-${VERSION_CODENAME:-none}.tar
make_root() {
    if [ ! -s "$system" ]; then
        [ "${ID:-}" = debian ] || cannot "the clean system is made from the host's own Debian, and this is ${PRETTY_NAME:-something else}"
        need mmdebstrap mmdebstrap
        say "making a clean $VERSION_CODENAME (once)"
        # shellcheck disable=SC2046 # no mirror, no argument
        mmdebstrap --quiet --variant=minbase --format=tar \
            --include=systemd,systemd-sysv,dbus,postgresql,procps,adduser,man-db,bash-completion \
            "$VERSION_CODENAME" "$system.part" $(debian_mirror) >&2 || cannot "a clean $VERSION_CODENAME could not be made"
        mv "$system.part" "$system"
    fi
    mkdir "$1"
    tar -C "$1" --numeric-owner -xf "$system"
}

# The package of this kind: built now, or the one in WALWARD_PACKAGES.
package() {
    local files
    if [ -z "${WALWARD_PACKAGES:-}" ]; then
        scripts/package.sh "$1" --output "$work/$1"
    else
        files=("$WALWARD_PACKAGES"/walward[_-]*."$1")
        [ ${#files[@]} = 1 ] && [ -e "${files[0]}" ] || die "there is not one .$1 in $WALWARD_PACKAGES"
        printf '%s\n' "${files[0]}"
    fi
}

expect() {
    local what=$1
    shift
    "$@" || die "does not hold: $what"
    say "ok: $what"
}

inside() {
    local init=$1
    shift
    nsenter -t "$init" -m -u -i -n -p -C -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

deb() {
    local first version root=$work/root init=''
    first=$(package deb)
    make_root "$root"
    cp "$first" "$root/root/first.deb"
    # The same package with a later version: what an upgrade is to dpkg and the maintainer scripts.
    dpkg-deb --raw-extract "$first" "$work/second"
    version=$(dpkg-deb --field "$first" Version)
    sed -i "s/^Version: .*/Version: $version+again/" "$work/second/DEBIAN/control"
    dpkg-deb -Zgzip -z1 --build "$work/second" "$root/root/second.deb" >/dev/null
    cp scripts/test-packages-inside.sh "$root/root/inside.sh"

    need systemd-nspawn systemd-container
    need nsenter util-linux
    need script bsdutils
    need pgrep procps
    say "booting"
    # A network of its own, so that its PostgreSQL takes no port of the host.
    script -qefc "exec systemd-nspawn -q -D '$root' --boot --private-network --register=no --keep-unit -M walward-$$" /dev/null \
        >"$work/boot.log" 2>&1 &
    script_pid=$!
    for _ in $(seq 600); do
        container=$(pgrep -P "$script_pid" -x systemd-nspawn || true)
        [ -z "$container" ] || init=$(pgrep -P "$container" | head -1 || true)
        # "degraded" is a state to go on from: a container lacks things that some unit wants.
        if [ -n "$init" ] && inside "$init" systemctl is-system-running 2>/dev/null | grep -Eqx 'running|degraded'; then break; fi
        kill -0 "$script_pid" 2>/dev/null || cannot "systemd-nspawn does not boot here: $(tail -n 3 "$work/boot.log")"
        sleep 0.2
    done
    inside "$init" systemctl is-system-running 2>/dev/null | grep -Eqx 'running|degraded' ||
        cannot "the container did not boot within two minutes"
    inside "$init" bash /root/inside.sh
    say "the Debian package holds"
}

rpm_package() {
    local package root=$work/rpm-root
    package=$(package rpm)
    need rpm rpm
    make_root "$root"
    # Here the package must make the user itself.
    chroot "$root" userdel postgres >/dev/null 2>&1 || true
    rpm --root "$root" --initdb
    expect "the RPM installs" rpm --root "$root" --install --nodeps "$package"
    expect "the user was made" grep -q '^postgres:.*:/var/lib/pgsql:' "$root/etc/passwd"
    facts() { chroot "$root" stat -c '%a %U %G' "$1"; }
    expect "the configuration is for root and the agent's group" [ "$(facts /etc/walward/walward.toml)" = "640 root postgres" ]
    expect "so is its folder" [ "$(facts /etc/walward)" = "750 root postgres" ]
    expect "so is conf.d" [ "$(facts /etc/walward/conf.d)" = "750 root postgres" ]
    expect "the folder for a repository is the agent's own" [ "$(facts /var/lib/walward)" = "700 postgres postgres" ]
    expect "so is the spool" [ "$(facts /var/spool/walward)" = "700 postgres postgres" ]
    for file in lib/systemd/system/walward.socket lib/systemd/system/walward.service share/man/man1/walward.1.gz share/man/man1/walward-backup.1.gz share/man/man1/walward-wal.1.gz \
        share/man/man5/walward.toml.5.gz share/man/man8/walwardd.8.gz share/bash-completion/completions/walward \
        share/zsh/site-functions/_walward share/fish/vendor_completions.d/walward.fish share/doc/walward/dependencies.txt \
        share/doc/walward/CHANGELOG.md share/licenses/walward/LICENSE; do
        expect "it has $file" [ -s "$root/usr/$file" ]
    done
    for program in walward walwardd walward-wal; do
        expect "$program starts" chroot "$root" "/usr/bin/$program" --version
    done
    expect "the agent's user reads the configuration" chroot "$root" setpriv --reuid=postgres --regid=postgres --init-groups \
        /usr/bin/walward config check
    expect "rpm finds nothing changed" rpm --root "$root" --verify --nodeps walward
    printf '# mine\n' >>"$root/etc/walward/walward.toml"
    mkdir -p "$root/var/lib/walward/main/wal"
    printf 'key\n' >"$root/etc/walward/main.key"
    expect "the RPM is upgraded" rpm --root "$root" --upgrade --nodeps --replacepkgs "$package"
    expect "the upgrade keeps what was changed" grep -q '^# mine$' "$root/etc/walward/walward.toml"
    expect "the RPM is removed" rpm --root "$root" --erase walward
    expect "a changed configuration is kept" grep -q '^# mine$' "$root/etc/walward/walward.toml.rpmsave"
    expect "a repository is not touched" [ -d "$root/var/lib/walward/main/wal" ]
    expect "nor is a key" [ -s "$root/etc/walward/main.key" ]
    expect "the programs are gone" [ ! -e "$root/usr/bin/walwardd" ]
    say "the RPM holds"
}

for kind in "$@"; do
    case $kind in
        deb) deb ;;
        rpm) rpm_package ;;
        *) die "unknown argument $kind; see the head of scripts/test-packages.sh" ;;
    esac
done
