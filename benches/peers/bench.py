"""Measures Walward beside its peers and writes the tables; started by run.sh, as the user that PostgreSQL runs as.

Every row takes its variants in turn, one run of each, and then again: a machine that slows down slows all of them.
"""

import argparse
import contextlib
import importlib
import os
import pkgutil
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
import rows
from cluster import SUM, Cluster, run
from store import Store
from tools import BarmanCloud, PgBaseBackupIncremental, Walward

SEGMENTS = 64


class Stage:
    """What every row works with."""

    def __init__(self, folder, programs, data_bytes):
        self.folder, self.programs = Path(folder), programs
        self.store = Store(self.folder / "store") if "WALWARD_TEST_STORE_ENDPOINT" in os.environ else None
        self.wanted_bytes = data_bytes
        self._wal = self._data = self._bench = self._files = None

    def store_of(self, variant):
        return self.store if variant.place.s3 else None

    @property
    def wal_cluster(self):
        if self._wal is None:
            self._wal = Cluster(self.programs, self.folder, "wal")
            self._wal.create()
            self.segments = self._wal.fill_wal(SEGMENTS)
            self.wal_bytes = sum((self._wal.data / "pg_wal" / name).stat().st_size for name in self.segments)
        return self._wal

    @property
    def data_cluster(self):
        if self._data is None:
            self._data = Cluster(self.programs, self.folder, "data")
            self._data.create("archive_command = '/bin/true'")
            self._data.start()
            self._data.load(self.wanted_bytes)
            self.sum = self._data.sql(SUM)
            self._data.stop()
            self.data_bytes = self._data.bytes()
        return self._data

    @property
    def bench_cluster(self):
        if self._bench is None:
            self._bench = Cluster(self.programs, self.folder, "bench")
            self._bench.create("archive_command = '/bin/true'")
            self._bench.start()
            run(self._bench.program("pgbench"), "-i", "-q", "-s", "50", "-h", self.folder, "-p", self._bench.port, "-U", "postgres",
                "postgres")
            self._bench.stop()
        return self._bench

    # 1,000 at a time: each holds its locks until the end of its transaction.
    FILES, FILES_AT_ONCE = 100_000, 1_000
    FILES_SUM = "select count(*), sum(relpages + reltuples) from pg_class where relname like 'small%'"

    @property
    def files_cluster(self):
        if self._files is None:
            self._files = Cluster(self.programs, self.folder, "files")
            self._files.create("archive_command = '/bin/true'\nmax_locks_per_transaction = 1000\nautovacuum = off\nfsync = off")
            self._files.start()
            make = ("do $$ begin for n in {0} .. {1} loop execute format('create table small%s as select %s as id', n, n); "
                    "end loop; end $$")
            for first in range(0, self.FILES, self.FILES_AT_ONCE):
                self._files.sql(make.format(first, first + self.FILES_AT_ONCE - 1))
            self.files_sum = self._files.sql("checkpoint", self.FILES_SUM)
            self._files.stop()
        return self._files

    def wait_archived(self, cluster):
        for _ in range(6000):
            if not cluster.ready():
                return
            time.sleep(0.1)
        raise RuntimeError(f"WAL still waits after ten minutes: {cluster.log.read_text()[-2000:]}")

    def zstd(self, names, out):
        files = " ".join(str(self.wal_cluster.data / "pg_wal" / name) for name in names)
        return f"cat {files} | zstd -q -1 -T2 -o {out}"

    def drop_caches(self):
        """So that every tool reads from the disk. Needs the helper that run.sh starts as root."""
        fifo = os.environ.get("BENCH_DROP_CACHES")
        if fifo:
            os.sync()
            Path(fifo).write_text("drop\n")
            time.sleep(0.5)

    def stop(self):
        for cluster in (self._wal, self._data, self._bench, self._files):
            if cluster:
                cluster.stop("immediate")
        if self.store:
            self.store.stop()


def all_rows():
    for found in sorted(module.name for module in pkgutil.iter_modules(rows.__path__)):
        if found.startswith("r"):
            yield importlib.import_module(f"rows.{found}")


def runs_of(row, variant, asked):
    """How often a variant is measured: a tool that takes minutes for a row is the same every time."""
    return 1 if variant.tool.slow else min(asked, getattr(row, "RUNS", asked))


def measure(stage, row, variants, asked, progress):
    results = {variant: [] for variant in variants if stage.store or not variant.place.s3}
    for number in range(asked):
        for variant in results:
            if isinstance(results[variant], str) or number >= runs_of(row, variant, asked):
                continue
            room = stage.folder / f"room-{time.monotonic_ns():x}"
            try:
                cost = row.measure(stage, variant, room)
                results[variant].append(cost)
                progress(f"{row.TITLE}: {variant.place.name}, {variant.title}, run {number + 1}: {cost}")
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                progress(f"{row.TITLE}: {variant.place.name}, {variant.title}, run {number + 1}: FAILED: {error}")
                results[variant] = "failed: " + str(error).replace("\n", " ").replace("|", "/")[:200]
            finally:
                bury(room, stage.folder / "graveyard")
                if variant.place.s3:
                    stage.store.empty()
    return results


def bury(room, graveyard):
    """Gives the space of `room` back, but not its inodes: an ext4 without a journal gives an inode that was freed to nobody for
    five minutes, and looks at all of these for every file that is made (`recently_deleted`, fs/ext4/ialloc.c), so that a
    run would pay for the one before it."""
    for folder, _, names in os.walk(room):
        for path in (Path(folder, name) for name in names):
            # What a process that ends removes is gone anyway.
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    os.truncate(path, 0)
    graveyard.mkdir(exist_ok=True)
    if room.exists():
        room.rename(graveyard / room.name)


def machine(programs):
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    memory = int(next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))) / (1 << 20)
    said = {
        "Walward": run(Walward.programs / "walward", "--version"),
        "PostgreSQL": run(Path(programs) / "postgres", "--version"),
        "pgBackRest": run("pgbackrest", "version"),
        "Barman": run(BarmanCloud.programs / "barman-cloud-wal-archive", "--version"),
        "zstd": run("zstd", "--version"),
    }
    lines = [f"- {os.cpu_count()} cores ({cpu}), {memory:.0f} GiB of memory, Linux {platform.release()}"]
    lines += [f"- {name}: {text.strip()}" for name, text in said.items()]
    store = os.environ.get("WALWARD_TEST_STORE")
    lines.append(f"- S3 server: {store}, on the same machine, behind nginx with TLS" if store else "- no S3 server")
    return "\n".join(lines)


def ended(number, _frame):
    """A signal ends the run as an error does: nothing is left running."""
    sys.exit(128 + number)


def page(asked, stage, minutes, sections, aims):
    data = f"{stage.data_bytes / (1 << 30):.1f} GiB" if stage._data else "not made"
    head = f"""# Benchmarks

Walward beside other tools: the same work, on one machine, in turn; medians (and the spread) of {asked.runs} runs, of fewer where one takes
minutes. Every run's result was restored or fetched back and compared. Made by `benches/peers/run.sh`, which took
{minutes:.0f} minutes here and writes this file. What counts is the ratio, not the number: every machine has others.

Of {len(aims)} aims {sum(aim.endswith(": reached.") for aim in aims)} are reached. Under each table stand its aims, and what keeps Walward from those that are not.
Delta restores have no row, because they are not there yet.

{machine(asked.programs)}
- database: {data}; WAL of pgbench; zstd level 1 for WAL and 3 for backups; two workers each; AES-256 (GCM here, CBC in
  pgBackRest); pgBackRest bundles small files (`repo-bundle`); everything else as it is by default
- CPU: all processes of the tool, with what the agent used meanwhile, and for backups the server's; peak: the largest single process"""
    return "\n\n".join(part for part in [head, *sections] if part) + "\n"


def main():
    signal.signal(signal.SIGTERM, ended)
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", required=True, help="PostgreSQL's programs")
    parser.add_argument("--walward", required=True, type=Path, help="Walward's programs")
    parser.add_argument("--barman", required=True, type=Path, help="Barman's programs")
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", default="", help="words of their titles, with commas; default all")
    parser.add_argument("--places", default="", help="of disk, s3, far, with commas; default all")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    Walward.programs, BarmanCloud.programs = asked.walward, asked.barman
    PgBaseBackupIncremental.programs = Path(asked.programs)
    chosen = [row for row in all_rows() if not asked.rows or any(word in row.TITLE for word in asked.rows.split(","))]
    began = time.monotonic()
    sections, aims = [], []
    folder = tempfile.mkdtemp(prefix="walward-bench-", dir=os.environ.get("TMPDIR", "/tmp"))
    stage = None
    try:
        stage = Stage(folder, asked.programs, int(asked.gigabytes * (1 << 30)))
        for row in chosen:
            variants = [variant for variant in row.variants() if not asked.places or variant.place.short in asked.places.split(",")]
            results = measure(stage, row, variants, asked.runs, lambda line: print(line, file=sys.stderr, flush=True))
            said = report.aims(row, results)
            aims += said
            sections += [f"## {row.TITLE}", row.TEXT, report.table(row, results), "\n".join(said), getattr(row, "LIMIT", "")]
            # After every row: who ends it early has what there is.
            asked.out.write_text(page(asked, stage, (time.monotonic() - began) / 60, sections, aims))
    finally:
        if stage:
            stage.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(asked.out.read_text())


main()
