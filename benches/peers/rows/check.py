"""Whether a measured run did what it should have done."""

from cluster import Cluster
from meter import measure, recovery, shell


def wal_is_there(stage, tool, room, names):
    """Fetches `names` and compares them with what PostgreSQL wrote."""
    folder = stage.wal_cluster.recovering(room / "fetched")
    measure(recovery(tool.restore_command(), folder, names))
    for name in names:
        with open(folder / "pg_wal" / name, "rb") as fetched, open(stage.wal_cluster.data / "pg_wal" / name, "rb") as written:
            if fetched.read() != written.read():
                raise RuntimeError(f"{name} came back as something else")


def restored(stage, tool, cluster, room, daemons, store, query, expected):
    """Restores the last backup, starts what came of it and asks it. Answers what the restore cost, with the seconds of the
    restore and of the recovery."""
    target = room / "restored"
    stage.drop_caches()
    cost = measure(shell(tool.restore(target)), daemons, store)
    tool.make_recoverable(target)
    cost.more["restore"] = cost.seconds
    cost.more["recovery"] = data_is_there(cluster, target, query, expected)
    return cost


def data_is_there(cluster, folder, query, expected):
    """Starts what was restored and asks it; answers the seconds of its recovery."""
    server = Cluster(cluster.programs, folder.parent, folder.name)
    server.configure(port=server.port, unix_socket_directories=server.folder, archive_mode="off")
    try:
        seconds = server.recover()
        if (found := server.sql(query)) != expected:
            raise RuntimeError(f"the restored server answers {found}, not {expected}")
        return seconds
    finally:
        server.stop("immediate")
