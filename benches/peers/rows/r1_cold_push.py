import meter
from rows import Variant
from rows.check import wal_is_there
from tools import DISK, S3, S3_FAR, BarmanCloud, PgBackRest, PgBackRestSync, Walward

TITLE = "One cold segment pushed"
TEXT = """One segment of 16 MiB waits, the tool has not seen it. From the start of `archive_command` to its end. Then the segment is
fetched back and compared."""
FIGURES = ("seconds", "cpu", "peak", "requests")
AIMS = [
    ("Walward, encrypted", DISK, "pgBackRest, not asynchronous, encrypted", 3.0),
    ("Walward, encrypted", DISK, "pgBackRest, encrypted", 5.0),
]


def variants():
    for place in (DISK, S3, S3_FAR):
        for tool in (Walward, PgBackRestSync, PgBackRest):
            for encrypted in (True, False) if place is DISK else (True,):
                yield Variant(tool, place, encrypted)
        if place.s3:
            yield Variant(BarmanCloud, place)


def measure(stage, variant, room):
    cluster, name = stage.wal_cluster, stage.segments[0]
    cluster.only_ready([])
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        # Another one first: connections are open, the repository is known, as they are on every day but the first.
        warm = stage.segments[1]
        cluster.only_ready([warm])
        meter.measure(meter.archiver(tool.archive_command(), cluster.data, [warm]))
        (cluster.data / "pg_wal/archive_status" / f"{name}.ready").touch()
        (cluster.data / "pg_wal/archive_status" / f"{name}.done").unlink(missing_ok=True)
        cost = meter.measure(meter.archiver(tool.archive_command(), cluster.data, [name]), daemons, stage.store_of(variant))
        wal_is_there(stage, tool, room, [name])
        return cost
