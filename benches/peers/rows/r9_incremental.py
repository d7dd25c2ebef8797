import struct
from pathlib import Path

import meter
from aims import AtMost, Faster
from cluster import SUM, run
from rows import Variant
from rows.check import restored
from tools import DISK, PgBackRestBlock, PgBaseBackupIncremental, Walward

TITLE = "Incremental backup, and restore"
TEXT = """A full backup (not measured), one row changed on about 1 % of the table's pages, spread over it at random, a checkpoint, then an
incremental backup (measured), and the restore of both to an empty folder and the recovery of that. Its rows are then summed up and
compared. "changed" is the length of the pages that were written since the full backup, by the LSN that each page holds; "read" is what the tool and the server read
through files; "stored" is what the incremental backup added. pgBackRest stores blocks (`repo-block`), `pg_basebackup --incremental` is there from PostgreSQL 17 on."""
FIGURES = ("seconds", "cpu", "peak", "changed", "read", "stored", "restore", "recovery")
RUNS = 2
AIMS = [
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 1),
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 1, figure="stored"),
    Faster("Walward, not encrypted", DISK, "pg_basebackup --incremental", 1),
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 1, figure="restore"),
    AtMost("Walward, encrypted", DISK, "read per changed byte", 3),
    AtMost("Walward, encrypted", DISK, "peak", 200),
]

PAGE_BYTES = 8192
# A row of each of about a hundredth of the pages. The same ones in every run, but for what the runs before it moved.
CHANGE = """
select setseed({seed});
with pages as (select (random() * {pages})::int as page from generate_series(1, {pages} / 100))
update orders set price = price + 1 where ctid = any(array(select format('(%s,%s)', page, 1 + page % 20)::tid from pages));
checkpoint;
"""


def variants():
    for tool in (Walward, PgBackRestBlock):
        for encrypted in (True, False):
            yield Variant(tool, DISK, encrypted)
    if PgBaseBackupIncremental.is_there():
        yield Variant(PgBaseBackupIncremental)


def lsn(text):
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def changed_bytes(folder, since):
    """The length of all pages of relations that were written since `since`."""
    changed = 0
    for path in (Path(folder) / "base").rglob("*"):
        if not path.is_file() or not path.name.split(".")[0].isdigit():
            continue
        with open(path, "rb") as file:
            while page := file.read(PAGE_BYTES):
                if len(page) == PAGE_BYTES:
                    high, low = struct.unpack_from("=II", page)
                    changed += PAGE_BYTES if (high << 32) | low >= since else 0
    return changed


def measure(stage, variant, room):
    cluster = stage.data_cluster
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        cluster.configure(archive_command=tool.archive_command(), wal_keep_size="1GB", autovacuum="off", **tool.settings())
        cluster.start()
        run("sh", "-c", tool.backup())
        since = lsn(cluster.sql("select redo_lsn from pg_control_checkpoint()"))
        stored = tool.stored_bytes()
        pages = int(cluster.sql("select relpages from pg_class where relname = 'orders'"))
        stage.seed = getattr(stage, "seed", 0) + 0.01
        cluster.sql(*CHANGE.format(seed=stage.seed, pages=pages).strip().split(";\n"))
        # What archiving costs is another row.
        cluster.sql("select pg_switch_wal()")
        stage.wait_archived(cluster)
        before_wal = tool.stored_bytes()
        stage.sum = cluster.sql(SUM)
        stage.drop_caches()
        cost = meter.measure(meter.shell(tool.incremental()), (*daemons, cluster.pid()))
        cluster.stop()
        cost.more["changed"] = changed_bytes(cluster.data, since)
        cost.more["stored"] = tool.stored_bytes() - before_wal
        if stored == 0:
            raise RuntimeError("the full backup stored nothing")
        cost.more |= restored(stage, tool, cluster, room, daemons, None, SUM, stage.sum).more
        return cost
