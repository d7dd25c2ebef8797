"""PostgreSQL clusters to measure with: made once a run, from a seed, and left as they were after every measurement."""

import shutil
import subprocess
import time
from pathlib import Path

from store import free_port

SEGMENT_BYTES = 16 << 20

# About 3 : 1 at zstd's level 3: words, numbers, and a part that does not compress.
ORDERS = """
select setseed(0.42);
create table orders as
select n as id, now() - n * interval '1 second' as placed,
    (array['small', 'large', 'blue', 'green', 'heavy', 'light', 'second-hand', 'new'])[1 + (random() * 7)::int] || ' ' ||
    (array['table', 'chair', 'lamp', 'shelf', 'carpet', 'mirror', 'bed', 'desk'])[1 + (random() * 7)::int] as item,
    (random() * 100000)::numeric(9, 2) as price, md5(random()::text) as token,
    repeat('customer remark ', (random() * 6)::int) as remark
from generate_series(1, {rows}) n;
create index on orders (id);
create index on orders (token);
checkpoint;
"""
ROW_BYTES = 260
SUM = "select count(*), sum(hashtext(o::text)::bigint) from orders o"


def run(*words, **options):
    """Runs a command that must succeed; answers what it printed."""
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    return done.stdout


class Cluster:
    """A data directory and, at times, its server."""

    def __init__(self, programs, folder, name):
        self.programs, self.folder, self.name = Path(programs), Path(folder), name
        self.data = self.folder / name
        self.port = free_port()
        self.log = self.folder / f"{name}.log"

    def program(self, name):
        return self.programs / name

    def create(self, settings=""):
        run(self.program("initdb"), "-D", self.data, "-U", "postgres", "--auth=trust", "--data-checksums", "--no-sync")
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"""
listen_addresses = ''
port = {self.port}
unix_socket_directories = '{self.folder}'
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 1h
max_connections = 20
archive_mode = on
archive_command = '/bin/false'
{settings}
""")

    def configure(self, **settings):
        """Settings for the next start, in place of those of the same name from before."""
        path = self.data / "postgresql.auto.conf"
        kept = [line for line in path.read_text().splitlines() if line.split(" ")[0] not in settings]
        path.write_text("\n".join(kept + [f"{name} = '{value}'" for name, value in settings.items()]) + "\n")

    def start(self, wait=True):
        words = ["start", "-s", "-D", self.data, "-l", self.log, "-t", "600"]
        # Its output must not be this process's pipe: the server would keep it open.
        with open(self.log, "a") as log:
            subprocess.run([self.program("pg_ctl"), *words, "-w" if wait else "-W"], stdin=subprocess.DEVNULL, stdout=log,
                           stderr=log, check=True)

    def stop(self, mode="fast"):
        if (self.data / "postmaster.pid").exists():
            run(self.program("pg_ctl"), "stop", "-s", "-m", mode, "-w", "-t", "600", "-D", self.data)

    def pid(self):
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def sql(self, *statements):
        """What the statements print, one after the other in one session."""
        commands = [word for statement in statements for word in ("-c", statement)]
        return run(self.program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", self.port, "-U", "postgres",
                   "-d", "postgres", *commands).strip()

    def load(self, size_bytes):
        self.sql(*ORDERS.format(rows=size_bytes // ROW_BYTES).strip().split(";\n"))

    def bytes(self):
        return sum(path.stat().st_size for path in (self.data / "base").rglob("*") if path.is_file())

    def connection(self):
        return f"host={self.folder} port={self.port} user=postgres dbname=postgres"

    def recover(self, seconds=600):
        """Starts what was restored and waits until it is a primary; answers the seconds that took."""
        began = time.monotonic()
        self.start()
        while self.sql("select pg_is_in_recovery()") != "f":
            if time.monotonic() - began > seconds:
                raise RuntimeError(f"the recovery did not end: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        return time.monotonic() - began

    # --- a stopped cluster whose WAL waits -----------------------------------------------------------------------------

    def fill_wal(self, segments):
        """Writes `segments` segments under pgbench, which stay in pg_wal, and stops the server."""
        # Only what is in the segments counts, not how long it takes to write them.
        self.configure(fsync="off", synchronous_commit="off")
        self.start()
        run(self.program("pgbench"), "-i", "-q", "-s", "20", "-h", self.folder, "-p", self.port, "-U", "postgres", "postgres")
        self.sql("checkpoint")
        seed = 42
        while len(self.ready()) < segments + 4:
            run(self.program("pgbench"), "-n", "-c", "4", "-T", "5", f"--random-seed={seed}", "-h", self.folder, "-p", self.port,
                "-U", "postgres", "postgres")
            # Whole pages again, as a busy server writes them after every checkpoint.
            self.sql("checkpoint")
            seed += 1
        names = self.ready()[-segments - 1:-1]
        self.stop("immediate")
        return names

    def ready(self):
        return sorted(path.stem for path in (self.data / "pg_wal/archive_status").glob("*.ready") if len(path.stem) == 24)

    def none_waits(self):
        """Forgets that anything was archived or is to be."""
        for path in (self.data / "pg_wal/archive_status").iterdir():
            path.unlink()

    def recovering(self, folder):
        """A directory that looks like this cluster in recovery to a tool that is asked for WAL."""
        (folder / "pg_wal").mkdir(parents=True)
        (folder / "global").mkdir()
        for own in ("PG_VERSION", "global/pg_control"):
            shutil.copy(self.data / own, folder / own)
        return folder
