#!/bin/sh
# Restores a base backup from an unencrypted Walward repository on a disk, without Walward: needs sh, zstd, tar, cp, find,
# sed and wc. docs/recovery-without-walward.md explains each step.
set -eu

usage() {
    cat >&2 <<'TEXT'
usage: restore-without-walward.sh REPOSITORY LABEL DIRECTORY [OID=PLACE ...]

  REPOSITORY  the cluster's folder in the repository: it holds cluster/, wal/ and backup/
  LABEL       the backup: a folder in REPOSITORY/backup that holds a manifest
  DIRECTORY   the data directory to make; absent or empty
  OID=PLACE   another place for the tablespace with this oid

Run it as the user that will run PostgreSQL. Set RECOVERY_TARGET_TIME (with a zone, as in "2026-11-21 14:03:00+00") to
stop there; otherwise everything in the archive is replayed.
TEXT
    exit 2
}

fail() {
    echo "restore-without-walward: $*" >&2
    exit 1
}

is_empty() {
    [ ! -e "$1" ] || [ -z "$(find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found)" ]
}

[ $# -ge 3 ] || usage
[ -d "$1/backup" ] || fail "$1 is not a cluster's folder: it has no backup/"
repository=$(cd "$1" && pwd)
case $repository in
    *[\"\$\`\\]*) fail "restore_command cannot name $repository; give the repository a path without \", \$, \` and \\ (a symbolic link will do)" ;;
esac
label=$2
target=$3
shift 3
backup=$repository/backup/$label
[ -e "$backup/manifest" ] || fail "there is no finished backup $label; there are: $(cd "$repository/backup" && echo */manifest)"
is_empty "$target" || fail "$target is not empty"

# The manifest's first line is about the backup; the others are its files.
head=$(zstd -qdc <"$backup/manifest" | sed -n '1{p;q;}')
lineage=$(printf '%s\n' "$head" | sed -n 's/.*"lineage":"\([0-9]*-[0-9]*\)".*/\1/p')
[ -n "$lineage" ] || fail "the manifest cannot be read; is the repository encrypted?"

# Every pack has to be there, numbered from 00000 on: without one, files would be missing and nothing would say so.
packs=$(printf '%s\n' "$head" | sed 's/"stored_sha256"/\
&/g' | sed -n '/^"stored_sha256"/p' | wc -l)
number=0
for pack in "$backup"/pack/*; do
    wanted=$(printf '%05d' "$number")
    [ "${pack##*/}" = "$wanted" ] || fail "pack $wanted is missing in $backup/pack"
    number=$((number + 1))
done
[ "$number" -eq "$packs" ] || fail "the backup has $packs packs, and in $backup/pack there are $number"

mkdir -p "$target"
chmod 700 "$target"
target=$(cd "$target" && pwd)

# Each pack is a tar archive. They are unpacked in order: the last one ends with global/pg_control, without which PostgreSQL
# does not start.
for pack in "$backup"/pack/*; do
    echo "unpacking $pack" >&2
    failed=$target/.unpacking-failed
    { zstd -qdc <"$pack" || : >"$failed"; } | tar -xpf - -C "$target"
    [ ! -e "$failed" ] || fail "$pack is damaged; empty $target before you try again"
done

# The directories of tablespaces were unpacked into pg_tblspc: each goes to its place, and a link stays.
place_of() {
    wanted=$1
    default=$2
    shift 2
    for mapping in "$@"; do
        if [ "${mapping%%=*}" = "$wanted" ]; then
            default=${mapping#*=}
        fi
    done
    echo "$default"
}
if [ -e "$target/tablespace_map" ]; then
    while read -r oid location; do
        [ -n "$oid" ] || continue
        place=$(place_of "$oid" "$location" "$@")
        is_empty "$place" || fail "tablespace $oid cannot go to $place, which is not empty; say $oid=PLACE and begin anew"
        mkdir -p "$place"
        chmod 700 "$place"
        cp -a "$target/pg_tblspc/$oid/." "$place/"
        find "$target/pg_tblspc/$oid" -depth -delete
        ln -s "$place" "$target/pg_tblspc/$oid"
        echo "tablespace $oid is in $place" >&2
    done <"$target/tablespace_map"
    # PostgreSQL would make the original links again.
    find "$target/tablespace_map" -delete
fi

# The archive lies in wal/LINEAGE/TIMELINE/LOG/FILE, histories in wal/LINEAGE. Absent is 1; any other failure is 255, which
# makes PostgreSQL stop instead of ending recovery early. (%f and %p are PostgreSQL's; backslashes and quotes are doubled for
# its configuration file.)
wal=$repository/wal/$lineage
quoted=$(printf '%s' "$wal" | sed "s/'/''/g; s/%/%%/g")
configuration=$target/postgresql.auto.conf
[ -e "$configuration" ] || : >"$configuration"
sed -i -e '/^[[:space:]]*recovery_/d' -e '/^[[:space:]]*restore_command/d' -e '/^[[:space:]]*primary_/d' "$configuration"
{
    # The file may end without a line feed.
    echo
    printf '%s\n' "restore_command = 'test -d \"$quoted\" || exit 255; o=\"$quoted/\$(echo %f | sed -E \"s,^(.{8})(.{8}).{8}(\\\\.[0-9A-Za-z.]+)?\$,\\\\1/\\\\2/&,\")\"; test -e \"\$o\" || exit 1; zstd -qdc <\"\$o\" >\"%p\" || exit 255'"
    printf '%s\n' "recovery_target_timeline = 'latest'"
    if [ -n "${RECOVERY_TARGET_TIME:-}" ]; then
        printf '%s\n' "recovery_target_time = '$RECOVERY_TARGET_TIME'"
        printf '%s\n' "recovery_target_action = 'promote'"
    fi
} >>"$configuration"
find "$target/standby.signal" -delete 2>/dev/null || :
: >"$target/recovery.signal"
sync

echo "restored $label to $target; check it with: pg_verifybackup -n $target; look at $configuration, then start the server" >&2
