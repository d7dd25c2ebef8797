# Ceph RGW, sourced by scripts/object-stores.sh: a monitor, one OSD that keeps everything in memory, and the gateway, in a
# tree of their own (chroot), because Debian sid's programs need a newer C library than the host's.

start_ceph() {
    local tree=$cache/ceph ports folder
    read -r -a ports <<<"$(free_ports 2)"
    for folder in proc dev; do
        mkdir -p "$tree/$folder"
        mount --bind "/$folder" "$tree/$folder"
        mounts=("${mounts[@]}" "$tree/$folder")
    done
    folder=/walward/$(basename "$room")
    leftovers=("${leftovers[@]}" "$tree$folder")
    mkdir -p "$tree$folder/mon" "$tree$folder/osd" "$tree$folder/run"
    cat >"$tree$folder/ceph.conf" <<CONFIG
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = v2:127.0.0.1:${ports[0]}/0
mon_initial_members = a
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_allow_insecure_global_id_reclaim = false
ms_mon_client_mode = crc
ms_bind_msgr1 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_warn = 2
mon_data_avail_crit = 1
run_dir = $folder/run
pid_file = $folder/run/\$type.\$id.pid
admin_socket = $folder/run/\$name.asok
log_file = $folder/run/\$name.log
mon_data = $folder/mon
osd_data = $folder/osd
osd_objectstore = memstore
memstore_device_bytes = 12884901888
osd_memory_target = 939524096
[client.rgw]
rgw_data = $folder
keyring = $folder/keyring.rgw
rgw_frontends = beast endpoint=127.0.0.1:${ports[1]}
rgw_enable_usage_log = false
# What is deleted is gone soon, not in two hours: it lies in memory.
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 5
CONFIG
    local outcome=0 server pid
    chroot "$tree" bash -s "$folder" "${ports[0]}" "$WALWARD_TEST_STORE_KEY" "$WALWARD_TEST_STORE_SECRET" \
        >"$room/ceph.log" 2>&1 <<'UP' || outcome=$?
set -e
folder=$1 port=$2 key=$3 secret=$4
fsid=$(sed -n 's/^fsid = //p' "$folder/ceph.conf")
configured="-c $folder/ceph.conf"
ceph-authtool --create-keyring "$folder/keyring" --gen-key -n mon. --cap mon 'allow *'
ceph-authtool --create-keyring "$folder/keyring.rgw" --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$port/0]" --set-min-mon-release tentacle "$folder/monmap"
ceph-mon $configured --mkfs -i a --monmap "$folder/monmap" --keyring "$folder/keyring"
ceph-mon $configured -i a
uuid=$(cat /proc/sys/kernel/random/uuid)
timeout 60 ceph $configured osd new "$uuid"
ceph-osd $configured -i 0 --mkfs --osd-uuid "$uuid"
ceph-osd $configured -i 0
timeout 60 ceph $configured osd crush add osd.0 1.0 root=default host=h
timeout 60 ceph $configured auth add client.rgw -i "$folder/keyring.rgw"
timeout 120 radosgw-admin $configured -n client.rgw user create --uid=t --display-name=t --access-key="$key" --secret="$secret"
radosgw $configured -n client.rgw
UP
    # In this order: a gateway or OSD whose monitor is gone does not hear TERM. Each writes its own number, some time later.
    for server in client.rgw osd.0 mon.a; do
        pid=$tree$folder/run/$server.pid
        for _ in $(seq 300); do
            if [ -s "$pid" ] || [ "$outcome" != 0 ]; then break; fi
            sleep 0.1
        done
        if [ -s "$pid" ]; then pids=("${pids[@]}" "$(cat "$pid")"); fi
    done
    [ "$outcome" = 0 ] || die "ceph does not start: $(tail -n 20 "$room/ceph.log" "$tree$folder"/run/*.log)"
    wait_for "${ports[1]}"
    export WALWARD_TEST_STORE_ENDPOINT=http://127.0.0.1:${ports[1]}
    request PUT "/$bucket"
}
