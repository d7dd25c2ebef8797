"""The process that does measured work and counts what it cost: read from standard input, written to standard output, as JSON.

Started by meter.py with as little of Python as there is, because a child's peak of memory begins with its parent's (Linux counts
it from before exec): less than this process's own 10 MiB or so cannot be told.
"""

import json
import os
import resource
import sys
import time


def shell(words, folder=None, attempts=1):
    """Runs `words` as PostgreSQL runs a command, in `folder`; raises when it fails `attempts` times."""
    if folder:
        os.chdir(folder)
    for attempt in range(attempts):
        child = os.posix_spawn("/bin/sh", ["sh", "-c", words], os.environ)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return
        if attempt + 1 < attempts:
            time.sleep(1)
    raise RuntimeError(f"{words} ended with {code}")


def archiver(command, data, names):
    """PostgreSQL's archiver (pgarch.c): one file after the other, in order, tried again after a second, then marked. That they
    wait is seen only now, so that nobody begins before the clock does."""
    status = data + "/pg_wal/archive_status/"
    for name in names:
        os.close(os.open(status + name + ".ready", os.O_CREAT | os.O_WRONLY))
    for name in names:
        shell(command.replace("%p", "pg_wal/" + name).replace("%f", name), data, attempts=3)
        os.rename(status + name + ".ready", status + name + ".done")


def recovery(command, data, names):
    """What startup does to get `names` (xlogarchive.c), without replaying them. A standby asks again, and so does this."""
    for name in names:
        if os.path.exists(data + "/pg_wal/RECOVERYXLOG"):
            os.unlink(data + "/pg_wal/RECOVERYXLOG")
        words = command.replace("%p", "pg_wal/RECOVERYXLOG").replace("%f", name).replace("%d", data)
        shell(words, data, attempts=3)
        os.rename(data + "/pg_wal/RECOVERYXLOG", data + "/pg_wal/" + name)


def starts(commands):
    """Starts the commands, lists of words, one after the other, with nothing between."""
    for words in commands:
        code = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(words[0], words, os.environ), 0)[1])
        if code != 0:
            raise RuntimeError(f"{words} ended with {code}")


def accounts():
    """Bytes read and written through files by this process and all that it has waited for."""
    with open("/proc/self/io") as io:
        counted = dict(line.split(": ") for line in io.read().splitlines())
    return int(counted["rchar"]), int(counted["wchar"])


def main():
    # Every orphan comes here, so that what detaches itself is waited for and counted: PR_SET_CHILD_SUBREAPER was set before
    # exec and holds.
    work = json.load(sys.stdin)
    read, written = accounts()
    out = os.dup(1)
    quiet = os.open("/dev/null", os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(quiet, 1)
    began = time.monotonic()
    {"archiver": archiver, "recovery": recovery, "shell": shell, "starts": starts}[work.pop("kind")](**work)
    seconds = time.monotonic() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    read_now, written_now = accounts()
    os.write(out, json.dumps({
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "read_bytes": read_now - read,
        "written_bytes": written_now - written,
    }).encode())


main()
