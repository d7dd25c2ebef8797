import meter
from aims import AtMost, Faster
from rows import Variant
from rows.check import wal_is_there
from tools import DISK, S3, S3_FAR, BarmanCloud, PgBackRest, PgBackRestSync, Tool, Walward

TITLE = "64 segments waiting"
TEXT = """64 segments of 16 MiB are marked as ready, and `archive_command` is called for one after the other, as PostgreSQL's archiver does.
Then all are fetched back and compared. `zstd` is the program alone, level 1 and both cores, over the same bytes to a file."""
FIGURES = ("seconds", "rate", "cpu", "peak", "read", "written", "requests", "sent")
AIMS = [
    Faster("Walward, encrypted", DISK, "zstd -1 -T2", 0.9),
    Faster("Walward, encrypted", DISK, "pgBackRest, encrypted", 3),
    Faster("Walward, encrypted", S3_FAR, "Walward, encrypted", 0.95, beside=S3),
    AtMost("Walward, encrypted", DISK, "peak", 64),
    AtMost("Walward, encrypted", S3_FAR, "peak", 64),
]
LIMIT = """On the disk the cores are busy from the beginning to the end, with Walward as with pgBackRest (the CPU seconds beside the seconds),
and the compressor and its level are the same. After zstd the largest part of Walward's was SHA-256 of the content, which BLAKE3 has replaced since. From a far store
the first and the last answer are waited for."""


class Zstd(Tool):
    name, encrypts, places = "zstd -1 -T2", False, (DISK,)


def variants():
    yield Variant(Zstd)
    for place in (DISK, S3, S3_FAR):
        for tool in (Walward, PgBackRest):
            for encrypted in (True, False) if place is DISK else (True,):
                yield Variant(tool, place, encrypted)
        if place is DISK:
            yield Variant(PgBackRestSync, place, True)
        if place is S3:
            yield Variant(BarmanCloud, place)


def measure(stage, variant, room):
    cluster, names = stage.wal_cluster, stage.segments
    if variant.tool is Zstd:
        room.mkdir()
        cost = meter.measure(meter.shell(stage.zstd(names, room / "out")))
        cost.more["bytes"] = stage.wal_bytes
        return cost
    cluster.none_waits()
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        cost = meter.measure(meter.archiver(tool.archive_command(), cluster.data, names), daemons, stage.store_of(variant))
        cost.more["bytes"] = stage.wal_bytes
        wal_is_there(stage, tool, room, names)
        return cost
