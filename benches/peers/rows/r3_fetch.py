import meter
from aims import AtMost, Faster
from rows import Variant
from rows.check import wal_is_there
from tools import DISK, S3, S3_FAR, PgBackRest, PgBackRestSync, Walward

TITLE = "64 segments fetched"
TEXT = """`restore_command` is called for 64 segments one after the other, as a recovery does that needs no time for itself, and each is
compared. Nothing is prefetched when it begins."""
FIGURES = ("seconds", "rate", "cpu", "peak", "read", "written", "requests")
AIMS = [
    Faster("Walward, encrypted", S3_FAR, "Walward, encrypted", 0.95, beside=S3),
    AtMost("Walward, encrypted", DISK, "peak", 64),
    AtMost("Walward, encrypted", S3_FAR, "peak", 64),
]
LIMIT = """Of a far store, the requests that open the repository (those that are more than the segments) are waited for one after the other,
and then four downloads at once for their round trips: `fetch.workers`, which keeps the agent's memory small."""


def variants():
    for place in (DISK, S3, S3_FAR):
        for tool in (Walward, PgBackRest):
            yield Variant(tool, place, True)
        if place is DISK:
            yield Variant(PgBackRestSync, place, True)


def measure(stage, variant, room):
    cluster, names = stage.wal_cluster, stage.segments
    cluster.none_waits()
    with variant.set_up(room, cluster, stage.store) as tool:
        tool.daemons()
        meter.measure(meter.archiver(tool.archive_command(), cluster.data, names))
        tool.stop()
        daemons = tool.daemons()
        target = cluster.recovering(room / "recovering")
        cost = meter.measure(meter.recovery(tool.restore_command(), target, names), daemons, stage.store_of(variant))
        cost.more["bytes"] = stage.wal_bytes
        wal_is_there(stage, tool, room, names[:4])
        return cost
