#!/usr/bin/env bash
# Real object stores for the conformance suite, each on free ports of 127.0.0.1, as unprivileged as it can be.
#
#   scripts/object-stores.sh list                     their names
#   scripts/object-stores.sh [--offline] fetch STORE  makes it runnable here; answers 1 when it cannot be had
#   scripts/object-stores.sh run STORE COMMAND...     starts it, empty, with one bucket; runs COMMAND; stops it
#
# COMMAND finds the store in WALWARD_TEST_STORE (its name), _URL, _ENDPOINT, _REGION, _KEY, _SECRET, _SERVICE_ACCOUNT (a
# file) and _CREATES: what the store is known to do with two writers of one name (once, overwrites, races, unsupported).
# moto stands behind TLS as well: _TLS_ENDPOINT, _CA.
# What is downloaded or built stays under the cache folder (see scripts/common.sh), what a store writes does not.
#
#   moto      moto 5 (PyPI), in memory           ceph     Ceph RGW of Debian sid: one mon, one OSD in memory
#   garage    Garage 2.5 (crates.io)             s3s-fs   s3s-fs 0.14 (crates.io)
#   azurite   Azurite 3 (npm), Azure Blob        gcs      Google's XML interface, translated by nginx in front of ceph
#   swift     OpenStack Swift of Debian, through its S3 interface
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"

stores="moto ceph garage s3s-fs azurite gcs swift"
bucket=walward-test
cache=$(cache_folder)

offline=
if [ "${1:-}" = --offline ]; then
    offline=yes
    shift
fi
what=${1:?usage: scripts/object-stores.sh [--offline] list | fetch STORE | run STORE COMMAND...}
if [ "$what" = list ]; then
    printf '%s\n' $stores
    exit 0
fi
store=${2:?which store? scripts/object-stores.sh list}
case " $stores " in
    *" $store "*) ;;
    *) die "there is no store $store; scripts/object-stores.sh list" ;;
esac
shift 2

give_up() {
    say "$store: $*"
    exit 1
}
online() { [ -z "$offline" ] || give_up "not here, and --offline was given"; }
needs_root() { [ "$(id -u)" = 0 ] || give_up "needs root"; }

# Runs an installation whose failure only means that the store cannot be had.
try() { ("$@") >&2 || give_up "'$*' failed"; }

fetch_moto() {
    command -v openssl >/dev/null || { online && try install_packages openssl; }
    [ ! -x "$cache/moto/bin/moto_server" ] || return 0
    online
    try ensure_python
    say "installing moto under $cache"
    mkdir -p "$cache"
    rm -rf "$cache/moto"
    try /usr/bin/python3 -m venv "$cache/moto"
    try "$cache/moto/bin/pip" install -q 'moto[server]==5.*'
}

fetch_ceph() {
    needs_root
    [ ! -e "$cache/ceph/.complete" ] || return 0
    online
    [ "$(uname -m)" = x86_64 ] || give_up "only known for x86_64"
    local mirror
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || give_up "this host's apt has no Debian mirror"
    try ensure_command mmdebstrap mmdebstrap
    say "fetching Ceph into $cache/ceph (once)"
    mkdir -p "$cache"
    rm -rf "$cache/ceph"
    try mmdebstrap --quiet --variant=minbase --architectures=amd64 --aptopt='Apt::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' --include=radosgw,ceph-mon,ceph-osd,ceph-common,ca-certificates \
        sid "$cache/ceph" "$mirror"
    : >"$cache/ceph/.complete"
}

fetch_crate() {
    local crate=$1 version=$2
    shift 2
    [ ! -x "$cache/$crate/bin/$crate" ] || return 0
    online
    try ensure_toolchain
    say "building $crate $version under $cache (once, some minutes)"
    # Not into the folder that the tests build in; and soon rather than fast.
    try env CARGO_TARGET_DIR="$cache/$crate-build" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --quiet --locked "$crate" --version "$version" \
        --root "$cache/$crate" "$@"
    rm -rf "$cache/$crate-build"
}
fetch_garage() { fetch_crate garage 2.5.0; }
fetch_s3s-fs() { fetch_crate s3s-fs 0.14.1 --features binary; }

fetch_azurite() {
    [ ! -x "$cache/azurite/node_modules/.bin/azurite-blob" ] || return 0
    online
    try ensure_command npm npm
    say "installing Azurite under $cache"
    mkdir -p "$cache/azurite"
    try npm install --silent --no-fund --no-audit --prefix "$cache/azurite" azurite@3.37.0
}

fetch_gcs() {
    fetch_ceph
    command -v nginx >/dev/null && return 0
    online
    try install_packages nginx-light
}

fetch_swift() {
    needs_root
    command -v swift-proxy-server >/dev/null && command -v memcached >/dev/null && return 0
    online
    try install_packages swift-proxy swift-account swift-container swift-object memcached
}

"fetch_$store"
[ "$what" != fetch ] || exit 0
[ "$what" = run ] || die "unknown argument $what; see the head of scripts/object-stores.sh"
[ $# -gt 0 ] || die "which command?"

# What runs, in the order in which it is to be stopped, and where it writes.
room=$(mktemp -d /tmp/walward-store.XXXXXX)
chmod 755 "$room"
pids=()
mounts=()
leftovers=("$room")
stop_all() {
    local pid mount
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    for mount in "${mounts[@]}"; do umount -l "$mount" || true; done
    rm -rf "${leftovers[@]}"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

free_ports() {
    /usr/bin/python3 -c 'import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))' "$1"
}

# Waits until something listens on each of the ports.
wait_for() {
    local port
    for port in "$@"; do
        for _ in $(seq 600); do
            if (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null; then continue 2; fi
            sleep 0.1
        done
        die "$store does not listen on port $port: $(tail -n 20 "$room"/*.log 2>/dev/null)"
    done
}

launch() {
    local log=$room/$1.log
    shift
    "$@" >"$log" 2>&1 &
    pids=($! "${pids[@]}")
}

# METHOD PATH [BODY]: a request signed with the store's keys.
request() { /usr/bin/python3 "$here/scripts/stores/request.py" "$@"; }

export WALWARD_TEST_STORE=$store WALWARD_TEST_STORE_URL=s3://$bucket WALWARD_TEST_STORE_REGION=us-east-1
export WALWARD_TEST_STORE_KEY=AKWALWARDTEST WALWARD_TEST_STORE_SECRET=SKwalwardtest0123456789
export WALWARD_TEST_STORE_CREATES=once WALWARD_TEST_STORE_SERVICE_ACCOUNT=

start_moto() {
    local port
    port=$(free_ports 1)
    launch moto "$cache/moto/bin/moto_server" -H 127.0.0.1 -p "$port"
    wait_for "$port"
    export WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:$port
    request PUT "/$bucket"
    front_with_tls "$port"
}

# PORT: TLS in front of it, with a certificate of an authority that nobody else trusts.
front_with_tls() {
    local port
    port=$(free_ports 1)
    (
        cd "$room"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Walward test authority' -keyout ca.key -out ca.pem \
            -addext 'keyUsage=critical,keyCertSign'
        openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n' >server.ext
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem
    ) >"$room/openssl.log" 2>&1 || die "openssl: $(tail -n 5 "$room/openssl.log")"
    launch tls /usr/bin/python3 "$here/scripts/stores/tls.py" "$port" "$room/server.pem" "$room/server.key" "$1"
    wait_for "$port"
    export WALWARD_TEST_STORE_TLS_ENDPOINT=https://localhost:$port WALWARD_TEST_STORE_CA=$room/ca.pem
}

. "$here/scripts/stores/ceph.sh"

start_garage() {
    local ports
    read -r -a ports <<<"$(free_ports 3)"
    cat >"$room/garage.toml" <<CONFIG
metadata_dir = "$room/meta"
data_dir = "$room/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:${ports[0]}"
rpc_public_addr = "127.0.0.1:${ports[0]}"
rpc_secret = "$(printf '%064d' 1)"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:${ports[1]}"
[admin]
api_bind_addr = "127.0.0.1:${ports[2]}"
CONFIG
    export WALWARD_TEST_STORE_KEY=GK0123456789abcdef01234567 WALWARD_TEST_STORE_REGION=garage
    WALWARD_TEST_STORE_SECRET=$(printf '%064d' 2)
    launch garage env GARAGE_DEFAULT_ACCESS_KEY="$WALWARD_TEST_STORE_KEY" \
        GARAGE_DEFAULT_SECRET_KEY="$WALWARD_TEST_STORE_SECRET" GARAGE_DEFAULT_BUCKET="$bucket" \
        "$cache/garage/bin/garage" -c "$room/garage.toml" server --single-node --default-bucket
    wait_for "${ports[1]}"
    export WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:${ports[1]} WALWARD_TEST_STORE_CREATES=overwrites
    request GET "/$bucket?list-type=2" # the bucket is made in the background
}

start_s3s-fs() {
    local port
    port=$(free_ports 1)
    mkdir -p "$room/root/$bucket"
    launch s3s "$cache/s3s-fs/bin/s3s-fs" --host 127.0.0.1 --port "$port" --access-key "$WALWARD_TEST_STORE_KEY" \
        --secret-key "$WALWARD_TEST_STORE_SECRET" "$room/root"
    wait_for "$port"
    export WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:$port WALWARD_TEST_STORE_CREATES=races
}

start_azurite() {
    local port account=devstoreaccount1
    # The emulator's own well-known account.
    local key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==
    port=$(free_ports 1)
    launch azurite "$cache/azurite/node_modules/.bin/azurite-blob" --blobHost 127.0.0.1 --blobPort "$port" \
        --location "$room/blobs" --silent --disableTelemetry --skipApiVersionCheck
    wait_for "$port"
    export WALWARD_TEST_STORE_URL=az://$bucket WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:$port/$account
    export WALWARD_TEST_STORE_KEY=$account WALWARD_TEST_STORE_SECRET=$key
    request PUT "/$bucket?restype=container"
}

start_gcs() {
    local port
    start_ceph
    # The shim drops the client's own authorization, so the bucket is open to all.
    request PUT "/$bucket?policy" '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*",
        "Resource":["arn:aws:s3:::'$bucket'","arn:aws:s3:::'$bucket'/*"]}]}'
    port=$(free_ports 1)
    sed -e "s|@ROOM@|$room|; s|@PORT@|$port|; s|@UPSTREAM@|${WALWARD_TEST_STORE_ENDPOINT#http://}|" \
        "$here/scripts/stores/gcs.conf" >"$room/gcs.conf"
    mkdir -p "$room/bodies"
    launch nginx nginx -e "$room/nginx.log" -c "$room/gcs.conf"
    wait_for "$port"
    export WALWARD_TEST_STORE_URL=gs://$bucket WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:$port
    export WALWARD_TEST_STORE_SERVICE_ACCOUNT=$room/account.json
    printf '%s' '{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}' >"$room/account.json"
}

. "$here/scripts/stores/swift.sh"

"start_$store"
say "$store runs at $WALWARD_TEST_STORE_ENDPOINT"
outcome=0
"$@" || outcome=$?
exit "$outcome"
