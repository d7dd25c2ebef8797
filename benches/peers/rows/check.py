"""Whether a measured run did what it should have done."""

from cluster import Cluster
from meter import measure, recovery


def wal_is_there(stage, tool, room, names):
    """Fetches `names` and compares them with what PostgreSQL wrote."""
    folder = stage.wal_cluster.recovering(room / "fetched")
    measure(recovery(tool.restore_command(), folder, names))
    for name in names:
        with open(folder / "pg_wal" / name, "rb") as fetched, open(stage.wal_cluster.data / "pg_wal" / name, "rb") as written:
            if fetched.read() != written.read():
                raise RuntimeError(f"{name} came back as something else")


def data_is_there(cluster, restored, query, expected):
    """Starts what was restored and asks it; answers the seconds of its recovery."""
    server = Cluster(cluster.programs, restored.parent, restored.name)
    server.configure(port=server.port, unix_socket_directories=server.folder, archive_mode="off")
    try:
        seconds = server.recover()
        if (found := server.sql(query)) != expected:
            raise RuntimeError(f"the restored server answers {found}, not {expected}")
        return seconds
    finally:
        server.stop("immediate")
