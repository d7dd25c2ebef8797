#!/bin/bash
# Run by scripts/test-packages.sh in the booted container: what a person does with the Debian package.
set -euo pipefail

say() { printf '==> inside: %s\n' "$*"; }
die() {
    printf 'error: inside: %s\n' "$*" >&2
    journalctl --no-pager -u walward -n 40 >&2 || true
    exit 1
}
trap 'die "line $LINENO failed: $BASH_COMMAND"' ERR
expect() {
    local what=$1
    shift
    "$@" || die "does not hold: $what"
    say "ok: $what"
}
refuse() { ! "$@"; }
sql() { runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -p "${port:-5432}" -c "$1" postgres; }
answers() { sql "select 1" >/dev/null 2>&1; }
none_ready() { [ -z "$(find "/var/lib/postgresql/$major/main/pg_wal/archive_status" -name '*.ready')" ]; }
eventually() {
    local what=$1
    shift
    for _ in $(seq 300); do
        if "$@"; then return; fi
        sleep 0.2
    done
    die "did not happen within a minute: $what"
}

say "installing"
apt-get install -y -q --no-install-recommends /root/first.deb </dev/null
expect "the socket waits" systemctl is-active -q walward.socket
expect "the agent runs" systemctl is-active -q walward.service
expect "it runs as postgres" [ "$(ps -o user= -p "$(systemctl show -P MainPID walward)")" = postgres ]
expect "the configuration is for root and the agent's group" \
    [ "$(stat -c '%a %U %G' /etc/walward/walward.toml)" = "640 root postgres" ]
expect "the folder for a repository is the agent's own" [ "$(stat -c '%a %U %G' /var/lib/walward)" = "700 postgres postgres" ]
for page in "1 walward" "1 walward-wal" "1 walward-backup" "5 walward.toml" "8 walwardd"; do
    # shellcheck disable=SC2086 # section and name
    expect "there is a manual page $page" man -w $page
done
expect "bash completes its commands" bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader walward; complete -p walward'
said=$(systemd-analyze verify walward.service walward.socket 2>&1)
expect "systemd has nothing to say against the units: $said" [ -z "$said" ]
major=$(ls /etc/postgresql)
eventually "PostgreSQL runs" answers

say "setting up"
# Once before the restart that archive_mode needs, once after it: then a first segment arrives.
# Into a folder that nobody has made.
walward setup --non-interactive --apply --repository-url file:///backup/pg || [ $? = 3 ] || die "the first setup failed"
expect "the repository is the agent's own, and so are the folders above it" \
    [ "$(stat -c %U /backup /backup/pg /backup/pg/main | sort -u)" = postgres ]
systemctl restart "postgresql@$major-main"
eventually "PostgreSQL runs" answers
walward setup --non-interactive --apply || [ $? = 3 ] || die "the second setup failed"
expect "it archives" [ "$(sql 'select archived_count > 0 from pg_stat_archiver')" = t ]

say "archiving, backing up"
sql "create table kept as select n, md5(n::text) as text from generate_series(1, 50000) n"
walward --yes check --switch-wal || [ $? = 3 ] || die "walward check found a failure"
runuser -u postgres -- walward check || [ $? = 3 ] || die "walward check found a failure for the agent's user"
walward backup
expect "the journal knows the cluster" [ -n "$(journalctl -q -n 1 WALWARD_CLUSTER=main)" ]
marked=$(sql "select clock_timestamp()")
sleep 1
sql "drop table kept"
sql "select pg_switch_wal()" >/dev/null
eventually "everything is archived" none_ready

say "restoring"
restored=/var/lib/postgresql/$major/restored
# It warns (3) that Debian's configuration is not a part of the backup.
walward restore --target-time "$marked" --target-directory "$restored" --archive-mode off || [ $? = 3 ] || die "the restore failed"
expect "the restored cluster is PostgreSQL's own" [ "$(stat -c %U "$restored")" = postgres ]
# As walward(1) has it.
run_restored() {
    runuser -u postgres -- "/usr/lib/postgresql/$major/bin/pg_ctl" "$1" -D "$restored" -l /tmp/restored.log \
        -o "-c config_file=/etc/postgresql/$major/main/postgresql.conf -c data_directory=$restored \
            -c external_pid_file= -c port=5433"
}
run_restored start || { cat /tmp/restored.log >&2; die "the restored server does not start"; }
rows=$(port=5433 sql "select count(*) from kept")
expect "the table is back" [ "$rows" = 50000 ]
run_restored stop >/dev/null

say "giving the key to root alone"
install -d -m 0700 /etc/credstore
install -m 0600 /etc/walward/main.key /etc/credstore/walward.key
sed -i 's#"/etc/walward/main.key"#"credential:walward.key"#' /etc/walward/walward.toml
expect "the configuration names the credential" grep -q '"credential:walward.key"' /etc/walward/walward.toml
expect "the agent's user cannot read its source" refuse runuser -u postgres -- cat /etc/credstore/walward.key
mv /etc/walward/main.key /root/
systemctl restart walward
archived=$(sql "select archived_count from pg_stat_archiver")
sql "select pg_create_restore_point('x'); select pg_switch_wal()" >/dev/null
more_archived() { [ "$(sql 'select archived_count from pg_stat_archiver')" -gt "$archived" ]; }
eventually "WAL is archived with it" more_archived
expect "root reads the repository with it" walward info
expect "so does the agent's user, while the agent runs" runuser -u postgres -- walward info
mv /root/main.key /etc/walward/

say "upgrading under load"
sql "select pg_stat_reset_shared('archiver')" >/dev/null
(while [ ! -e /tmp/enough ]; do sql "select pg_create_restore_point('load'); select pg_switch_wal()" >/dev/null; sleep 0.1; done) &
load=$!
sleep 2
before=$(systemctl show -P MainPID walward)
apt-get install -y -q --no-install-recommends /root/second.deb </dev/null
sleep 3
touch /tmp/enough
wait "$load"
eventually "everything is archived" none_ready
expect "the new version is there" [ "$(dpkg-query -W -f '${Version}' walward)" = "$(dpkg-deb --field /root/second.deb Version)" ]
expect "the agent was replaced" [ "$(systemctl show -P MainPID walward)" != "$before" ]
archived=$(sql "select archived_count from pg_stat_archiver")
expect "much was archived meanwhile ($archived files)" [ "$archived" -gt 10 ]
failed=$(sql "select failed_count from pg_stat_archiver")
expect "and no archive_command failed ($failed)" [ "$failed" = 0 ]
expect "the configuration is as it was set up" grep -q cluster.main /etc/walward/walward.toml

say "removing"
printf '# mine\n' >/etc/walward/conf.d/mine.toml
apt-get remove -y -q walward </dev/null
expect "the agent is gone" refuse systemctl is-active -q walward.service
expect "the socket is gone" refuse systemctl is-active -q walward.socket
expect "the configuration stays" grep -q cluster.main /etc/walward/walward.toml
expect "so does what lies in conf.d" [ -s /etc/walward/conf.d/mine.toml ]
expect "the repository stays" [ -d /backup/pg/main/wal ]
apt-get purge -y -q walward </dev/null
expect "the configuration is gone" [ ! -e /etc/walward/walward.toml ]
expect "so is what lay in conf.d" [ ! -e /etc/walward/conf.d ]
expect "so is the spool" [ ! -e /var/spool/walward ]
expect "the key stays" [ -s /etc/walward/main.key ]
expect "the repository stays" [ -d /backup/pg/main/wal ]
