#!/usr/bin/env bash
# The whole product in two minutes: archive, back up, lose a table, restore to just before it.
#
# Installs what is missing (PostgreSQL from the distribution), builds the release, works in a temporary folder, and leaves
# nothing behind. Fails if any step does not hold. As root, PostgreSQL runs as the user postgres.
#
#   scripts/demo.sh [--keep]      --keep leaves the folder for a look around
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/common.sh"
cd "$here"

keep=
case ${1:-} in
    --keep) keep=yes ;;
    '') ;;
    *) die "unknown argument $1; see the head of scripts/demo.sh" ;;
esac

ensure_toolchain
ensure_postgres
pg=$(distribution_postgres)
say "building the release"
cargo build --locked --release --bins
built=${CARGO_TARGET_DIR:-target}/release

# --- a stage: one folder, one user, and an end that comes whatever happens -------------------------------------------
folder=$(mktemp -d "${TMPDIR:-/tmp}/walward-demo-XXXXXX")
pids=()
finish() {
    local outcome=$?
    trap - EXIT
    for file in "$folder"/*/postmaster.pid; do
        if [ -s "$file" ]; then kill -QUIT "$(head -1 "$file")" 2>/dev/null || true; fi
    done
    if [ -s "$folder/agent.pid" ]; then kill "$(cat "$folder/agent.pid")" 2>/dev/null || true; fi
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    for _ in $(seq 100); do
        compgen -G "$folder/*/postmaster.pid" >/dev/null || break
        sleep 0.1
    done
    if [ "$outcome" != 0 ]; then
        for log in "$folder"/*.log; do
            [ -s "$log" ] || continue
            printf '\n---- the last lines of %s ----\n' "$log" >&2
            tail -15 "$log" >&2
        done
        printf '\nThe demo failed (exit code %s).\n' "$outcome" >&2
    fi
    if [ -n "$keep" ]; then
        printf 'The folder is kept: %s\n' "$folder" >&2
    else
        rm -rf "$folder"
    fi
    exit "$outcome"
}
trap finish EXIT
trap 'exit 130' INT TERM

mkdir "$folder/bin"
cp "$built/walward" "$built/walwardd" "$built/walward-wal" "$folder/bin"
if [ "$(id -u)" = 0 ]; then
    chown -R postgres: "$folder"
    chmod 0755 "$folder"
    user() { (cd "$folder" && exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$folder" "$@"); }
else
    user() { (cd "$folder" && exec "$@"); }
fi
client_bytes=$(stat -c %s "$folder/bin/walward-wal")
[ "$client_bytes" -lt 1048576 ] || die "walward-wal has $client_bytes bytes; it should stay under 1 MiB"

walward() { user "$folder/bin/walward" --config "$folder/walward.toml" --no-input "$@"; }
sql() { user "$pg/psql" -XqAt -v ON_ERROR_STOP=1 -h "$folder" -U postgres -d postgres "$@"; }
start_server() { user "$pg/pg_ctl" start -s -w -t 60 -D "$folder/$1" -l "$folder/$1.log" -o "-k $folder" >/dev/null; }
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
seconds_since() { printf '%d.%d' $((($(date +%s%N) - $1) / 1000000000)) $((($(date +%s%N) - $1) / 100000000 % 10)); }
began=$(date +%s%N)

step "1. A PostgreSQL cluster that archives through Walward"
user "$pg/initdb" -D "$folder/main" -U postgres --auth=trust --data-checksums --no-sync >"$folder/initdb.log"
user tee -a "$folder/main/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
archive_mode = on
archive_command = '$folder/bin/walward-wal --socket $folder/walward.sock push %p'
CONF
grep '^archive' "$folder/main/postgresql.conf"
start_server main

step "2. An encrypted repository, and the agent"
user mkdir "$folder/repository" "$folder/spool"
user tee "$folder/walward.toml" <<CONF
[agent]
socket = "$folder/walward.sock"
spool_directory = "$folder/spool"

[repository.demo]
url = "file://$folder/repository"
encryption = { key_file = "$folder/demo.key" }

[cluster.main]
data_directory = "$folder/main"
connection = "host=$folder user=postgres dbname=postgres"
repositories = ["demo"]
CONF
walward --cluster main setup
# Its own process id, not that of a shell around it: the end must reach the agent itself.
user sh -c 'echo $$ >"$1/agent.pid"; exec "$1/bin/walwardd" --config "$1/walward.toml"' sh "$folder" >"$folder/agent.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    [ ! -S "$folder/walward.sock" ] || break
    sleep 0.1
done
# 3: all is well but for the backup that is still to come.
walward check || [ $? -eq 3 ]

step "3. Data is loaded while WAL is archived"
sql -c "create table orders (id int primary key, item text, price numeric)" \
    -c "insert into orders select n, md5(n::text), n % 1000 from generate_series(1, 300000) n" \
    -c "create table customers as select n as id, 'customer ' || n as name from generate_series(1, 100000) n" \
    -c "checkpoint"
for _ in 1 2 3; do sql -c "update orders set price = price + 1" -c "select pg_switch_wal()" >/dev/null; done
printf '%s rows, %s of WAL\n' "$(sql -c 'select count(*) from orders')" \
    "$(sql -c "select pg_size_pretty(pg_current_wal_lsn() - '0/0')")"

step "4. A full backup"
backup_began=$(date +%s%N)
walward --cluster main backup
backup_seconds=$(seconds_since "$backup_began")

step "5. More is written; then an accident"
sql -c "insert into orders select n, 'late order', 1 from generate_series(300001, 301000) n"
rows=$(sql -c "select count(*) from orders")
sum=$(sql -c "select sum(hashtext(o::text)::bigint) from orders o")
moment=$(sql -c "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
printf 'noted: %s rows at %s\n' "$rows" "$moment"
sleep 0.2
sql -c "drop table orders" -c "create table somebody_went_on as select 1" -c "select pg_switch_wal()" >/dev/null
echo 'drop table orders;   -- oops'
last=$(sql -c "select pg_walfile_name(pg_current_wal_lsn() - 1)")
for _ in $(seq 300); do
    [ "$(sql -c "select coalesce(last_archived_wal, '') >= '$last' from pg_stat_archiver")" != t ] || break
    sleep 0.1
done
[ "$(sql -c "select coalesce(last_archived_wal, '') >= '$last' from pg_stat_archiver")" = t ] ||
    die "the last segment $last was not archived within 30 s"
failed=$(sql -c "select failed_count from pg_stat_archiver")
walward info

step "6. Restored to just before it, in a new folder"
restore_began=$(date +%s%N)
walward --cluster main restore --target-time "$moment" --target-directory "$folder/restored" --archive-mode off --yes
"$pg/pg_verifybackup" --no-parse-wal "$folder/restored"
user "$pg/pg_ctl" stop -s -m fast -w -D "$folder/main"
start_server restored
for _ in $(seq 600); do
    [ "$(sql -c 'select pg_is_in_recovery()')" != f ] || break
    sleep 0.1
done
restore_seconds=$(seconds_since "$restore_began")

step "7. What came back"
found_rows=$(sql -c "select count(*) from orders")
found_sum=$(sql -c "select sum(hashtext(o::text)::bigint) from orders o")
printf 'orders: %s of %s rows, checksum %s (was %s)\n' "$found_rows" "$rows" "$found_sum" "$sum"
[ "$found_rows" = "$rows" ] || die "rows are missing"
[ "$found_sum" = "$sum" ] || die "the rows are not those that were there"
[ "$(sql -c "select to_regclass('somebody_went_on') is null")" = t ] || die "the recovery went past the moment"

segments=$(find "$folder/repository" -type f -path '*/wal/*' | grep -cE '/[0-9A-F]{24}$')
wal_bytes=$((segments * 16777216))
stored_bytes=$(find "$folder/repository" -type f -path '*/wal/*' -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
backup_bytes=$(find "$folder/repository" -type f -path '*/backup/*' -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
[ "$segments" -ge 5 ] || die "only $segments segments in the repository"
step "In numbers"
awk -v segments="$segments" -v wal="$wal_bytes" -v stored="$stored_bytes" -v backup="$backup_bytes" \
    -v failed="$failed" -v bs="$backup_seconds" -v rs="$restore_seconds" -v total="$(seconds_since "$began")" 'BEGIN {
    printf "WAL       %d segments, %.0f MiB stored as %.1f MiB (%.1f : 1), encrypted; %d failed pushes\n", segments, wal / 1048576, stored / 1048576, wal / stored, failed
    printf "backup    %.1f MiB stored, %s s\n", backup / 1048576, bs
    printf "restore   %s s until the server was up\n", rs
    printf "all       %s s\n", total
}'
