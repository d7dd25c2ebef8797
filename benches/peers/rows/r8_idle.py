import meter
from aims import AtMost
from rows import Variant
from tools import DISK, S3, Walward

TITLE = "An agent that has nothing to do"
TEXT = "Half a minute beside a stopped database, with a repository that it knows."
FIGURES = ("peak", "cpu", "requests")
RUNS = 1
AIMS = [AtMost("Walward, encrypted", DISK, "peak", 12), AtMost("Walward, encrypted", S3, "peak", 12)]


def variants():
    for place in (DISK, S3):
        yield Variant(Walward, place, True)


def measure(stage, variant, room):
    cluster = stage.wal_cluster
    cluster.none_waits()
    with variant.set_up(room, cluster, stage.store) as tool:
        return meter.measure(meter.shell("sleep 30"), tool.daemons(), stage.store_of(variant))
