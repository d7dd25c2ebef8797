import meter
from rows import Variant
from rows.check import restored
from tools import DISK, S3, PgBackRest, PgBaseBackup, Walward

TITLE = "A database of 100,000 small files"
TEXT = "Full backup and restore of a database with 100,000 tables of one page each. Their number and sum are compared afterwards."
FIGURES = ("seconds", "cpu", "peak", "requests", "restore", "recovery")
RUNS = 1
AIMS = []


def variants():
    for place in (DISK, S3):
        for tool in (Walward, PgBackRest):
            yield Variant(tool, place, True)
    yield Variant(PgBaseBackup)


def measure(stage, variant, room):
    cluster = stage.files_cluster
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        cluster.configure(archive_command=tool.archive_command())
        cluster.start()
        store = stage.store_of(variant)
        stage.drop_caches()
        cost = meter.measure(meter.shell(tool.backup()), (*daemons, cluster.pid()), store)
        cluster.stop()
        cost.more |= restored(stage, tool, cluster, room, daemons, store, stage.FILES_SUM, stage.files_sum).more
        return cost
