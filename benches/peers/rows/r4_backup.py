import meter
from aims import AtMost, Faster
from cluster import SUM
from rows import Variant
from rows.check import restored
from tools import DISK, S3, BarmanCloud, PgBackRest, PgBaseBackup, Walward, Zstd

TITLE = "Full backup, and restore"
TEXT = """A full backup of the running, idle database, its restore to an empty folder, and the recovery of that until the server takes
writes. Its rows are then summed up and compared. Walward and pgBackRest check every page's checksum while they read. `zstd` stands
for what the machine can do: `tar` through it to a file and back, which is no backup."""
FIGURES = ("seconds", "rate", "cpu", "peak", "read", "written", "requests", "stored", "restore", "recovery")
RUNS = 2
AIMS = [
    Faster("Walward, encrypted", DISK, "zstd -3 -T2", 0.85),
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 1.5),
    Faster("Walward, encrypted", DISK, "zstd -3 -T2", 0.85, figure="restore"),
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 1.5, figure="restore"),
    AtMost("Walward, encrypted", DISK, "peak", 200),
    AtMost("Walward, encrypted", S3, "peak", 200),
]
LIMIT = """A restore ends when the disk has taken all of it, and pgBackRest's waits for the same disk. The S3 server keeps its objects in the
memory that the disk's cache would use."""


def variants():
    for place in (DISK, S3):
        for tool in (Walward, PgBackRest):
            for encrypted in (True, False) if place is DISK else (True,):
                yield Variant(tool, place, encrypted)
        yield Variant(BarmanCloud if place.s3 else PgBaseBackup, place)
    yield Variant(Zstd)


def measure(stage, variant, room):
    cluster = stage.data_cluster
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        # What was only copied needs the WAL of its last checkpoint when the server has stopped.
        cluster.configure(archive_command=tool.archive_command(), wal_keep_size="1GB")
        cluster.start()
        cluster.sql("checkpoint")
        store = stage.store_of(variant)
        stage.drop_caches()
        cost = meter.measure(meter.shell(tool.backup()), (*daemons, cluster.pid()), store)
        cluster.stop()
        cost.more["bytes"] = stage.data_bytes
        cost.more["stored"] = tool.stored_bytes() if not variant.place.s3 else cost.sent_bytes
        cost.more |= restored(stage, tool, cluster, room, daemons, store, SUM, stage.sum).more
        return cost
