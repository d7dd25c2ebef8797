# Shared by the scripts of this folder; sourced, not run.
#
# Says what it does on standard error, installs with apt only what is missing, and starts nothing.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '==> %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "cannot run '$*': it needs root, and there is no sudo; run it as root and start again"
    fi
}

# What the tests and the demo download once. As root it must be reachable for the user that PostgreSQL runs as,
# and root's home is not.
cache_folder() {
    if [ -n "${WALWARD_CACHE:-}" ]; then
        printf '%s\n' "$WALWARD_CACHE"
    elif [ "$(id -u)" = 0 ]; then
        printf '%s\n' /var/cache/walward-tests
    else
        printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/walward-tests"
    fi
}

# Installs packages without starting the services that some of them bring.
apt_updated=
install_packages() {
    command -v apt-get >/dev/null ||
        die "cannot install $*: this is neither Debian nor Ubuntu; install them by hand and start again"
    if [ -z "$apt_updated" ]; then
        as_root apt-get update -q </dev/null >&2 || say "apt-get update failed; going on with the lists that are there"
        apt_updated=yes
    fi
    say "installing $*"
    (
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'as_root rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
            as_root chmod 755 "$policy"
        fi
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" </dev/null >&2
    ) || die "apt-get could not install $*"
}

# The mirror that the host itself uses, so that a proxy or a local mirror is honoured.
debian_mirror() {
    local mirror
    mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1 || true)
    if [ -z "$mirror" ]; then
        mirror=$(sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]*debian\/?) .*/\2/p' /etc/apt/sources.list 2>/dev/null | head -1 || true)
    fi
    printf '%s\n' "$mirror"
}

# The newest PostgreSQL of the distribution, as its folder of programs; empty if there is none.
distribution_postgres() {
    local bin newest=
    for bin in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V); do
        if [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]; then newest=$bin; fi
    done
    printf '%s\n' "$newest"
}

# Installs the distribution's PostgreSQL if there is none, without the cluster that Debian would make and start.
ensure_postgres() {
    if [ -z "$(distribution_postgres)" ]; then
        local settings=/etc/postgresql-common/createcluster.conf
        [ -e "$settings" ] || install_packages postgresql-common
        as_root cp -p "$settings" "$settings.walward"
        printf 'create_main_cluster = false\n' | as_root tee -a "$settings" >/dev/null
        local outcome=0
        (install_packages postgresql) || outcome=$?
        as_root mv "$settings.walward" "$settings"
        [ "$outcome" = 0 ] || exit "$outcome"
    fi
    [ -n "$(distribution_postgres)" ] || die "PostgreSQL is installed, but not under /usr/lib/postgresql/*/bin"
}

# Installs each command that is missing: ensure_command COMMAND PACKAGE...
ensure_command() {
    local command=$1
    shift
    command -v "$command" >/dev/null || install_packages "$@"
}

# The distribution's Python, with what makes environments.
ensure_python() {
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || install_packages python3 python3-venv
}

ensure_toolchain() {
    command -v cargo >/dev/null || die "there is no cargo; install a Rust toolchain (https://rustup.rs) and start again"
    ensure_command cc gcc libc6-dev
}
