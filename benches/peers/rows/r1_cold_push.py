import meter
from aims import AtMost, Faster
from rows import Variant
from rows.check import wal_is_there
from tools import DISK, S3, S3_FAR, BarmanCloud, PgBackRest, PgBackRestSync, Walward

TITLE = "One cold segment pushed"
TEXT = """One segment of 16 MiB is marked as ready, which the tool has not seen before, and `archive_command` is started for it at once. Then the segment is
fetched back and compared."""
FIGURES = ("seconds", "cpu", "peak", "requests")
AIMS = [
    Faster("Walward, encrypted", DISK, "pgBackRest, not asynchronous, encrypted", 3),
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 5),
    AtMost("Walward, encrypted", DISK, "peak", 64),
]
LIMIT = """Most of it is work that pgBackRest has, too (the CPU seconds): 16 MiB are read, digested, compressed and encrypted, and an object
and its folder are made durable. SHA-256 goes from the first stored byte to the last, on one core."""


def variants():
    for place in (DISK, S3, S3_FAR):
        for tool in (Walward, PgBackRestSync, PgBackRest):
            for encrypted in (True, False) if place is DISK else (True,):
                yield Variant(tool, place, encrypted)
        if place.s3:
            yield Variant(BarmanCloud, place)


def measure(stage, variant, room):
    cluster, name = stage.wal_cluster, stage.segments[0]
    cluster.none_waits()
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        # Another one first: connections are open, the repository is known, as they are on every day but the first.
        warm = stage.segments[1]
        meter.measure(meter.archiver(tool.archive_command(), cluster.data, [warm]))
        cost = meter.measure(meter.archiver(tool.archive_command(), cluster.data, [name]), daemons, stage.store_of(variant))
        wal_is_there(stage, tool, room, [name])
        return cost
