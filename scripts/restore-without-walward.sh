#!/bin/sh
# Restores a base backup from an unencrypted Walward repository on a disk, without Walward: needs sh, zstd, tar, cp, find,
# sed and wc, and for a differential or an incremental backup awk, dd, od and truncate. docs/recovery-without-walward.md explains
# each step.
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
[ -e "$repository/backup/$label/manifest" ] ||
    fail "there is no finished backup $label; there are: $(cd "$repository/backup" && echo */manifest)"
is_empty "$target" || fail "$target is not empty"

# The manifest's first line is about the backup; the others are its files.
head_of() {
    zstd -qdc <"$repository/backup/$1/manifest" | sed -n '1{p;q;}'
}

# Every pack has to be there, numbered from 00000 on: without one, files would be missing and nothing would say so.
check_packs() {
    packs=$(head_of "$1" | sed 's/"stored_sha256"/\
&/g' | sed -n '/^"stored_sha256"/p' | wc -l)
    # That of a differential or an incremental backup names the object "blocks" in the same way.
    case $(head_of "$1") in
        *'"depends_on":{'*) packs=$((packs - 1)) ;;
    esac
    number=0
    for pack in "$repository/backup/$1"/pack/*; do
        wanted=$(printf '%05d' "$number")
        [ "${pack##*/}" = "$wanted" ] || fail "pack $wanted is missing in $repository/backup/$1/pack"
        number=$((number + 1))
    done
    [ "$number" -eq "$packs" ] || fail "backup $1 has $packs packs, and in $repository/backup/$1/pack there are $number"
}

# Each pack is a tar archive. They are unpacked in order: the last one ends with global/pg_control, without which PostgreSQL
# does not start.
unpack() {
    for pack in "$repository/backup/$1"/pack/*; do
        echo "unpacking $pack" >&2
        failed=$2/.unpacking-failed
        { zstd -qdc <"$pack" || : >"$failed"; } | tar -xpf - -C "$2"
        [ ! -e "$failed" ] || fail "$pack is damaged; empty $target and remove $target.* before you try again"
    done
}

lineage=$(head_of "$label" | sed -n 's/.*"lineage":"\([0-9]*-[0-9]*\)".*/\1/p')
[ -n "$lineage" ] || fail "the manifest cannot be read; is the repository encrypted?"

# The backups to put together, the full one first.
chain=
next=$label
while [ -n "$next" ]; do
    [ -e "$repository/backup/$next/manifest" ] || fail "backup $next, which $label builds on, is not there"
    case " $chain " in
        *" $next "*) fail "the backups of $label build on each other in a circle" ;;
    esac
    check_packs "$next"
    chain="$next $chain"
    next=$(head_of "$next" | sed -n 's/.*"depends_on":{"label":"\([^"]*\)".*/\1/p')
done
set -- "$chain" "$@"

mkdir -p "$target"
chmod 700 "$target"
target=$(cd "$target" && pwd)

# Puts what an incremental backup holds, in directory $1, over what the backups before it made of the target. Its files INCREMENTAL.x hold some
# blocks of x: 4 bytes each for a magic number, how many blocks, the length of x in blocks and the numbers of the blocks; then, at a
# multiple of the size of a block, the blocks.
put_over() {
    (cd "$target" && find . -type f) | while read -r file; do
        [ -e "$1/$file" ] || [ -e "$1/${file%/*}/INCREMENTAL.${file##*/}" ] || find "$target/$file" -delete
    done
    (cd "$1" && find . -type d) | while read -r folder; do
        mkdir -p -m 700 "$target/$folder"
    done
    (cd "$target" && find . -depth -type d) | while read -r folder; do
        [ -e "$1/$folder" ] || find "$target/$folder" -maxdepth 0 -empty -delete
    done
    (cd "$1" && find . -type f) | while read -r file; do
        name=${file##*/}
        case $file in
            ./global/pg_control) continue ;;
            ./base/*/INCREMENTAL.* | ./global/INCREMENTAL.* | ./pg_tblspc/*/INCREMENTAL.*) ;;
            *)
                mv -f "$1/$file" "$target/$file"
                continue
                ;;
        esac
        whole=$target/${file%/*}/${name#INCREMENTAL.}
        [ -e "$whole" ] || fail "of $whole only some blocks are there"
        count=$(od -An -tu4 -j4 -N4 "$1/$file" | tr -d ' ')
        length=$(od -An -tu4 -j8 -N4 "$1/$file" | tr -d ' ')
        truncate -s $((length * block)) "$whole"
        [ "$count" -gt 0 ] || continue
        first=$(((12 + 4 * count + block - 1) / block))
        # One line for each run of blocks that follow each other: where it is, where it goes, how many.
        od -An -v -w4 -tu4 -j12 -N$((4 * count)) "$1/$file" | awk -v at="$first" '
            function put() { if (n) print from, to, n }
            { if (n && $1 == to + n) { n++ } else { put(); from = at; to = $1; n = 1 } at++ }
            END { put() }' |
            while read -r from to blocks; do
                dd if="$1/$file" of="$whole" bs="$block" skip="$from" seek="$to" count="$blocks" conv=notrunc status=none
            done
    done
}

chain=$1
shift
for backup in $chain; do
    if [ "$backup" = "${chain%% *}" ]; then
        unpack "$backup" "$target"
        [ "$backup" = "$label" ] && continue
        mv "$target/global/pg_control" "$target/global/pg_control.before"
    else
        # Beside the target, so that files can be moved.
        part=$target.$backup
        is_empty "$part" || fail "$part is not empty"
        mkdir -p -m 700 "$part"
        unpack "$backup" "$part"
        block=$(head_of "$backup" | sed -n 's/.*"block_bytes":\([0-9]*\).*/\1/p')
        put_over "$part"
        if [ "$backup" = "$label" ]; then
            # Last of all: without it the directory does not start.
            mv "$part/global/pg_control" "$target/global/pg_control"
            sed -i '/^INCREMENTAL FROM /d' "$target/backup_label"
            # It lists the parts and not the files.
            find "$target/backup_manifest" -delete
        fi
        find "$part" -delete
    fi
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

check="check it with: pg_verifybackup -n $target; "
[ -e "$target/backup_manifest" ] || check=
echo "restored $label to $target; ${check}look at $configuration, then start the server" >&2
