"""The tools that are measured, each set up the same way: same level of zstd where it has it, two workers, encryption where it is
asked for. A tool knows how to archive, fetch, back up and restore, and which processes work for it.

A tool that cannot do a piece of work says so (`lacks`), and the table shows the reason.
"""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import run

WAL_LEVEL, BACKUP_LEVEL, WORKERS = 1, 3, 2


@dataclass(frozen=True)
class Place:
    """Where the repository is: on this disk, on the S3 server beside it, or 50 ms away from that."""

    name: str
    short: str

    @property
    def s3(self):
        return self is not DISK

    @property
    def far(self):
        return self is S3_FAR


DISK, S3, S3_FAR = Place("disk", "disk"), Place("S3", "s3"), Place("S3, 50 ms away", "far")


class Tool:
    """One tool for one cluster at one place. Its files are under `room`, which goes away with it."""

    name = ""
    encrypts = True
    # So much that once is enough.
    slow = False
    places = (DISK, S3, S3_FAR)

    def __init__(self, room, cluster, place, encrypted, store):
        self.room, self.cluster, self.place, self.encrypted, self.store = Path(room), cluster, place, encrypted, store
        self.room.mkdir(parents=True)

    @property
    def endpoint(self):
        return f"https://localhost:{self.store.port(self.place.far)}"

    def prepare(self):
        """Makes the repository; not measured. The server runs, unless the cluster is one whose WAL waits."""

    def daemons(self):
        return ()

    def stop(self):
        pass

    def archive_command(self):
        raise NotImplementedError

    def restore_command(self):
        """With %d for the directory of the server that recovers."""
        raise NotImplementedError

    def backup(self):
        """The command that takes a full backup."""
        raise NotImplementedError

    def incremental(self):
        """The command that takes a backup of what changed since the last one."""
        raise NotImplementedError

    def settings(self):
        """What the server has to be told for that."""
        return {}

    def restore(self, target):
        """The command that restores the last backup to `target`."""
        raise NotImplementedError

    def make_recoverable(self, target):
        """What must be written by hand after `restore` so that the server recovers to the end of its WAL."""

    def stored_bytes(self):
        return sum(path.stat().st_size for path in (self.room / "repository").rglob("*") if path.is_file())


class Walward(Tool):
    name = "Walward"
    programs = Path()

    def prepare(self):
        (self.room / "spool").mkdir()
        encryption = f'{{ key_file = "{self.room}/key" }}' if self.encrypted else '"none"'
        if self.place.s3:
            (self.room / "secret").write_text(self.store.secret + "\n")
            (self.room / "secret").chmod(0o600)
            where = f"""url = "s3://{self.store.bucket}/{self.room.name}"
endpoint = "{self.endpoint}"
region = "{self.store.region}"
ca_file = "{self.store.ca}"
access_key_id = "{self.store.key}"
secret_access_key_file = "{self.room}/secret"
"""
        else:
            (self.room / "repository").mkdir()
            where = f'url = "file://{self.room}/repository"\n'
        # The limits are the defaults but for the number of workers.
        self.config = self.room / "walward.toml"
        self.config.write_text(f"""
[agent]
socket = "{self.room}/walward.sock"
spool_directory = "{self.room}/spool"
cpu_threads = {WORKERS}

[repository.main]
{where}encryption = {encryption}
compression = {{ wal = {WAL_LEVEL}, backup = {BACKUP_LEVEL} }}

[cluster.main]
data_directory = "{self.cluster.data}"
connection = "{self.cluster.connection()}"
repositories = ["main"]
""")
        self.config.chmod(0o600)
        run(*self.walward("setup").split())
        self.agent = None

    def walward(self, words):
        return f"{self.programs}/walward --config {self.config} --cluster main --no-input {words}"

    def start_agent(self):
        with open(self.room / "agent.log", "a") as log:
            self.agent = subprocess.Popen([self.programs / "walwardd", "--config", self.config], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=log)
        socket = self.room / "walward.sock"
        for _ in range(200):
            if socket.exists():
                return
            time.sleep(0.05)
        raise RuntimeError((self.room / "agent.log").read_text())

    def daemons(self):
        if self.agent is None:
            self.start_agent()
        return (self.agent.pid,)

    def stop(self):
        if self.agent:
            self.agent.terminate()
            self.agent.wait(120)
            self.agent = None

    def client(self, words):
        return f"{self.programs}/walward-wal --socket {self.room}/walward.sock --cluster main {words}"

    def archive_command(self):
        return self.client("push %p")

    def restore_command(self):
        return self.client("fetch %f %p")

    def backup(self):
        return self.walward("backup")

    def incremental(self):
        return self.walward("backup --type incr")

    def restore(self, target):
        return self.walward(f"restore --target-directory {target} --archive-mode off --yes")


class PgBackRest(Tool):
    name = "pgBackRest"
    asynchronous = True
    # Changed files are stored by blocks.
    block = False

    def prepare(self):
        for folder in ("repository", "spool", "lock", "log"):
            (self.room / folder).mkdir()
        if self.place.s3:
            where = f"""repo1-type=s3
repo1-path=/{self.room.name}
repo1-s3-bucket={self.store.bucket}
repo1-s3-endpoint=localhost
repo1-s3-region={self.store.region}
repo1-s3-key={self.store.key}
repo1-s3-key-secret={self.store.secret}
repo1-s3-uri-style=path
repo1-storage-host=localhost
repo1-storage-port={self.store.port(self.place.far)}
repo1-storage-ca-file={self.store.ca}
"""
        else:
            where = f"repo1-path={self.room}/repository\n"
        cipher = "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=benchmark\n" if self.encrypted else ""
        asynchronous = "y" if self.asynchronous else "n"
        block = "repo1-block=y\n" if self.block else ""
        self.config = self.room / "pgbackrest.conf"
        self.config.write_text(f"""[global]
{where}{cipher}repo1-bundle=y
{block}compress-type=zst
compress-level={BACKUP_LEVEL}
process-max={WORKERS}
spool-path={self.room}/spool
lock-path={self.room}/lock
log-path={self.room}/log
log-level-console=error
log-level-file=error
start-fast=y

[global:archive-push]
compress-level={WAL_LEVEL}
archive-async={asynchronous}

[global:archive-get]
archive-async={asynchronous}

[main]
pg1-path={self.cluster.data}
pg1-port={self.cluster.port}
pg1-socket-path={self.cluster.folder}
pg1-user=postgres
""")
        run(*self.pgbackrest("stanza-create --no-online").split())

    def pgbackrest(self, words):
        return f"pgbackrest --config={self.config} --stanza=main {words}"

    def archive_command(self):
        return self.pgbackrest("archive-push %p")

    def restore_command(self):
        return self.pgbackrest("--pg1-path=%d archive-get %f %p")

    def backup(self):
        return self.pgbackrest("backup --type=full")

    def incremental(self):
        return self.pgbackrest("backup --type=incr")

    def restore(self, target):
        return self.pgbackrest(f"restore --pg1-path={target} --archive-mode=off")


class PgBackRestSync(PgBackRest):
    name = "pgBackRest, not asynchronous"
    asynchronous = False


class PgBackRestBlock(PgBackRest):
    block = True


class PgBaseBackup(Tool):
    """PostgreSQL's own: a tar compressed by the client with two workers; WAL comes with it."""

    name = "pg_basebackup"
    encrypts = False
    places = (DISK,)

    def archive_command(self):
        return "/bin/true"

    def backup(self):
        return (f"{self.cluster.program('pg_basebackup')} -D {self.room}/repository -Ft -X stream -c fast "
                f"--compress=client-zstd:level={BACKUP_LEVEL},workers={WORKERS} -h {self.cluster.folder} -p {self.cluster.port} "
                "-U postgres")

    def restore(self, target):
        repository = f"{self.room}/repository"
        return (f"mkdir -m 700 {target} && zstd -dcq {repository}/base.tar.zst | tar x -C {target} && "
                f"tar x -C {target}/pg_wal -f {repository}/pg_wal.tar && sync -f {target}")


class PgBaseBackupIncremental(Tool):
    """PostgreSQL's own, from 17 on: plain directories, which its own program puts together; nothing is compressed."""

    name = "pg_basebackup --incremental"
    encrypts = False
    places = (DISK,)
    programs = Path()

    @classmethod
    def is_there(cls):
        return (cls.programs / "pg_combinebackup").exists()

    def archive_command(self):
        return "/bin/true"

    def settings(self):
        return {"summarize_wal": "on"}

    def _backup(self, name, words=""):
        return (f"{self.cluster.program('pg_basebackup')} -D {self.room}/repository/{name} -X stream -c fast {words} "
                f"-h {self.cluster.folder} -p {self.cluster.port} -U postgres")

    def backup(self):
        return f"mkdir -p {self.room}/repository && " + self._backup("full")

    def incremental(self):
        return self._backup("incr", f"--incremental={self.room}/repository/full/backup_manifest")

    def restore(self, target):
        repository = f"{self.room}/repository"
        return f"{self.cluster.program('pg_combinebackup')} -o {target} {repository}/full {repository}/incr"


class Zstd(Tool):
    """What reading, compressing and writing cost at least: no backup, for nothing is said to the server."""

    name = f"zstd -{BACKUP_LEVEL} -T{WORKERS}"
    encrypts = False
    places = (DISK,)

    def prepare(self):
        (self.room / "repository").mkdir()

    def archive_command(self):
        return "/bin/true"

    def backup(self):
        # That a file grows meanwhile is nothing to it (1).
        tar = f"tar c -C {self.cluster.data} --exclude=./postmaster.pid --exclude='./pg_wal/*' ."
        return f"{{ {tar} || [ $? = 1 ]; }} | zstd -q -{BACKUP_LEVEL} -T{WORKERS} -o {self.room}/repository/tar.zst"

    def restore(self, target):
        return f"mkdir -m 700 {target} && zstd -dcq {self.room}/repository/tar.zst | tar x -C {target} && sync -f {target}"

    def make_recoverable(self, target):
        # The server has stopped meanwhile, so that its WAL is all that the copy lacks.
        shutil.copytree(self.cluster.data / "pg_wal", target / "pg_wal", dirs_exist_ok=True)


class BarmanCloud(Tool):
    """Barman's programs for object stores. Encryption is the store's there, so none is measured."""

    name = "barman-cloud"
    encrypts = False
    slow = True
    places = (S3, S3_FAR)
    programs = Path()

    def prepare(self):
        self.environment = {
            "AWS_ACCESS_KEY_ID": self.store.key, "AWS_SECRET_ACCESS_KEY": self.store.secret,
            "AWS_DEFAULT_REGION": self.store.region, "AWS_CA_BUNDLE": str(self.store.ca),
            # Newer SDKs send a checksum in a form that few servers but Amazon's know.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        self.url = f"s3://{self.store.bucket}/{self.room.name}"

    def barman(self, program, words):
        variables = " ".join(f"{name}={value}" for name, value in self.environment.items())
        return f"env {variables} {self.programs}/barman-cloud-{program} --endpoint-url {self.endpoint} {words}"

    def archive_command(self):
        return self.barman("wal-archive", f"--zstd --compression-level {WAL_LEVEL} {self.url} main %p")

    def restore_command(self):
        return self.barman("wal-restore", f"{self.url} main %f %p")

    def backup(self):
        return self.barman("backup", f"--snappy --jobs {WORKERS} --immediate-checkpoint -h {self.cluster.folder} "
                           f"-p {self.cluster.port} -U postgres {self.url} main")

    def restore(self, target):
        listed = json.loads(run(*self.barman("backup-list", f"--format json {self.url} main").split()))
        last = max(backup["backup_id"] for backup in listed["backups_list"])
        return self.barman("restore", f"{self.url} main {last} {target}")

    def make_recoverable(self, target):
        with open(target / "postgresql.auto.conf", "a") as conf:
            conf.write(f"restore_command = '{self.restore_command()}'\n")
        (target / "recovery.signal").touch()


class NoTool(Tool):
    """What the database does when archiving costs nothing."""

    name = "/bin/true"
    encrypts = False
    places = (DISK,)

    def archive_command(self):
        return "/bin/true"
