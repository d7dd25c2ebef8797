import meter
from rows import Variant
from rows.check import restored
from tools import DISK, S3, PgBackRest, Walward

TITLE = "A recovery as a whole"
TEXT = """From an empty folder to a server that takes writes: the restore of a full backup, then the replay of the WAL that came after
it. The rows are summed up and compared."""
FIGURES = ("seconds", "segments", "restore", "recovery", "cpu", "peak")
RUNS = 2
AIMS = []
# Each changes a row on about every page: whole pages first, then changes.
ROUNDS, SHARE = 8, 60


def variants():
    for place in (DISK, S3):
        for tool in (Walward, PgBackRest):
            yield Variant(tool, place, True)


def measure(stage, variant, room):
    cluster = stage.bench_cluster
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        cluster.configure(archive_command=tool.archive_command())
        cluster.start()
        meter.measure(meter.shell(tool.backup()), daemons)
        for number in range(ROUNDS):
            cluster.sql(f"update pgbench_accounts set abalance = abalance + 1 where aid % {SHARE} = {number % SHARE}",
                        "select pg_switch_wal()")
        expected = cluster.sql("select sum(abalance) from pgbench_accounts")
        stage.wait_archived(cluster)
        written = int(cluster.sql("select (pg_current_wal_lsn() - redo_lsn) / (16 * 1024 * 1024) from pg_control_checkpoint()").split(".")[0])
        cluster.stop("immediate")
        cost = restored(stage, tool, cluster, room, daemons, stage.store_of(variant),
                        "select sum(abalance) from pgbench_accounts", expected)
        cost.more["segments"] = written
        cost.seconds += cost.more["recovery"]
        return cost
