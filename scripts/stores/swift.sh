# OpenStack Swift, sourced by scripts/object-stores.sh: one server of each kind, tempauth, its S3 interface in front.

start_swift() {
    local ports kind number
    read -r -a ports <<<"$(free_ports 5)"
    [ -s /etc/swift/swift.conf ] || die "there is no /etc/swift/swift.conf, which Swift reads from no other place"
    mkdir -p "$room/etc" "$room/devices/d1"
    number=1
    for kind in object container account; do
        swift-ring-builder "$room/etc/$kind.builder" create 8 1 1 >>"$room/rings.log"
        swift-ring-builder "$room/etc/$kind.builder" add "r1z1-127.0.0.1:${ports[$number]}/d1" 100 >>"$room/rings.log"
        swift-ring-builder "$room/etc/$kind.builder" rebalance >>"$room/rings.log"
        cat >"$room/etc/$kind.conf" <<CONFIG
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${ports[$number]}
workers = 1
user = swift
swift_dir = $room/etc
devices = $room/devices
mount_check = false
log_address = $room/no-syslog
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
[$kind-replicator]
[$kind-auditor]
CONFIG
        number=$((number + 1))
    done
    cat >"$room/etc/proxy.conf" <<CONFIG
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${ports[0]}
workers = 1
user = swift
swift_dir = $room/etc
log_address = $room/no-syslog
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:${ports[4]}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
CONFIG
    chown -R swift: "$room"
    launch memcached memcached -l 127.0.0.1 -p "${ports[4]}" -u nobody -m 64
    for kind in account container object proxy; do
        launch "$kind" "swift-$kind-server" "$room/etc/$kind.conf"
    done
    # All of them before the first request: one that finds no container server has its 404 remembered.
    wait_for "${ports[@]}"
    export WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:${ports[0]} WALWARD_TEST_STORE_CREATES=unsupported
    export WALWARD_TEST_STORE_KEY=test:tester WALWARD_TEST_STORE_SECRET=testing
    request PUT "/$bucket"
}
