import meter
from rows import Variant
from tools import DISK, S3, NoTool, PgBackRest, Walward

TITLE = "What archiving costs the database"
TEXT = """pgbench (TPC-B, 8 clients, 20 s, after a checkpoint) on a server that shares the machine with the archiving, beside the same
with `archive_command = '/bin/true'`. When it ends, how many segments still wait."""
FIGURES = ("tps", "waiting", "cpu", "peak")
RUNS = 2
AIMS = []
SECONDS = 20


def variants():
    yield Variant(NoTool)
    for place in (DISK, S3):
        for tool in (Walward, PgBackRest):
            yield Variant(tool, place, True)


def measure(stage, variant, room):
    cluster = stage.bench_cluster
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        cluster.configure(archive_command=tool.archive_command())
        cluster.start()
        cluster.sql("checkpoint", "select pg_switch_wal()")
        stage.wait_archived(cluster)
        failed = cluster.sql("select failed_count from pg_stat_archiver")

        said = room / "pgbench"
        load = (f"{cluster.program('pgbench')} -n -c 8 -j 2 -T {SECONDS} --random-seed=42 -h {cluster.folder} -p {cluster.port} "
                f"-U postgres postgres >{said}")
        cost = meter.measure(meter.shell(load), daemons, stage.store_of(variant))
        cost.more["waiting"] = len(cluster.ready())
        cost.more["tps"] = next(float(line.split()[2]) for line in said.read_text().splitlines() if line.startswith("tps"))
        if cluster.sql("select failed_count from pg_stat_archiver") != failed:
            raise RuntimeError("an archive_command failed")
        return cost
