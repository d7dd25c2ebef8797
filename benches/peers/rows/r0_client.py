import time

import meter
from aims import Faster
from rows import Variant
from tools import DISK, NoTool, PgBackRest, Walward

TITLE = "A command that finds its work done"
TEXT = """What is left for PostgreSQL to wait for when the segment is durable already (`push`, 200 times) or in the spool already (`fetch`,
4 segments, with nothing left to prefetch), beside starting `/bin/true`. The commands are started without a shell."""
FIGURES = ("each", "cpu")
AIMS = [
    Faster("Walward, not encrypted, push", DISK, "/bin/true", 1 / 1.5, figure="each"),
    Faster("Walward, not encrypted, fetch", DISK, "/bin/true", 1 / 1.5, figure="each"),
]
LIMIT = """A program of Rust's takes longer to start than `/bin/true`, whatever it does. The rest of a push are threads that wake one
another: the agent's for the connection, one that looks at the file (so that a file system that hangs holds nobody else up), the
agent's again, the client's. A fetch looks at the data directory and at the spool, and renames a file."""
# As many as each prefetches when it knows nothing of the recovery yet.
TIMES, AHEAD = 200, 4


def variants():
    yield Variant(NoTool)
    for tool in (Walward, PgBackRest):
        for note in ("push", "fetch"):
            yield Variant(tool, note=note)


def measure(stage, variant, room):
    cluster, names = stage.wal_cluster, stage.segments[-AHEAD - 1:]
    cluster.none_waits()
    with variant.set_up(room, cluster, stage.store) as tool:
        daemons = tool.daemons()
        if variant.tool is NoTool:
            commands = [["/bin/true"]] * TIMES
        else:
            meter.measure(meter.archiver(tool.archive_command(), cluster.data, names), daemons)
            commands = pushes(tool, cluster, names) if variant.note == "push" else fetches(tool, cluster, room, names, daemons)
        cost = meter.measure(meter.starts(commands), daemons)
        cost.more["times"] = len(commands)
        return cost


def pushes(tool, cluster, names):
    path = cluster.data / "pg_wal" / names[0]
    # It waits again, and is there already.
    (cluster.data / "pg_wal/archive_status" / f"{names[0]}.ready").touch()
    words = tool.archive_command().replace("%p", str(path)).split()
    meter.measure(meter.starts([words]))
    return [words] * TIMES


def fetches(tool, cluster, room, names, daemons):
    folder = cluster.recovering(room / "recovering")
    command = tool.restore_command().replace("%d", str(folder))
    # PostgreSQL renames what it got; to replace it would cost the removal of the one before.
    commands = [command.replace("%p", str(folder / "pg_wal" / name)).replace("%f", name).split() for name in names]
    meter.measure(meter.starts(commands[:1]), daemons)
    spooled = lambda: sum(name in path.name for name in names[1:] for path in (room / "spool").rglob("*"))
    for _ in range(200):
        if spooled() >= AHEAD:
            # Whole, too, and no longer being written.
            time.sleep(1)
            return commands[1:]
        time.sleep(0.1)
    raise RuntimeError(f"only {spooled()} of {AHEAD} segments were prefetched")
