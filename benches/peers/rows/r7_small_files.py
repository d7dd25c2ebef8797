import meter
from rows import Variant
from rows.check import data_is_there
from tools import DISK, S3, PgBackRest, PgBaseBackup, Walward

TITLE = "A database of 100,000 small files"
TEXT = "Full backup and restore of a database with 100,000 tables of one page each. Their number and sum are compared afterwards."
FIGURES = ("seconds", "cpu", "peak", "requests", "restore", "recovery")
AIMS = []


def variants():
    for place in (DISK, S3):
        for tool in (Walward, PgBackRest):
            yield Variant(tool, place, True)
    yield Variant(PgBaseBackup)


def measure(stage, variant, room):
    cluster = stage.files_cluster
    tool = variant.set_up(room, cluster, stage.store)
    try:
        daemons = tool.daemons()
        cluster.configure(archive_command=tool.archive_command())
        cluster.start()
        store = stage.store_of(variant)
        cost = meter.measure(meter.shell(tool.backup()), (*daemons, cluster.pid()), store)
        cluster.stop()
        target = room / "restored"
        restored = meter.measure(meter.shell(tool.restore(target)), daemons, store)
        tool.make_recoverable(target)
        cost.more["restore"] = restored.seconds
        cost.more["recovery"] = data_is_there(cluster, target, stage.FILES_SUM, stage.files_sum)
        return cost
    finally:
        cluster.stop("immediate")
        tool.stop()
