"""What a piece of work costs: time, CPU, memory and bytes, as the kernel counts them.

The work is done by runner.py, a process of its own that adopts every orphan, so that what detaches itself, as pgBackRest's
asynchronous workers do, is counted too. Daemons that run before and after it (an agent, a server) are counted by what they
gained meanwhile.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)


@dataclass
class Cost:
    """What one run cost. `peak_bytes` is the largest single process, not the sum of several."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int
    requests: int = 0
    sent_bytes: int = 0
    # What a row measures besides, by name: number.
    more: dict = field(default_factory=dict)


def archiver(command, data, names):
    """Work: what PostgreSQL's archiver does with `names`, which become ready in the data directory `data`."""
    return {"kind": "archiver", "command": command, "data": str(data), "names": names}


def recovery(command, data, names):
    """Work: what a recovery in the data directory `data` does to get `names`."""
    return {"kind": "recovery", "command": command, "data": str(data), "names": names}


def shell(words):
    """Work: a command."""
    return {"kind": "shell", "words": words}


def starts(commands):
    """Work: commands, each a list of words, one after the other."""
    return {"kind": "starts", "commands": [[str(word) for word in words] for words in commands]}


def _accounts(pid):
    """CPU seconds and bytes read and written through files, of a running process and of its children that ended."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    with open(f"/proc/{pid}/io") as io:
        counted = dict(line.split(": ") for line in io.read().splitlines())
    cpu = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    return cpu, int(counted["rchar"]), int(counted["wchar"])


def _peak(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _run(work):
    """What runner.py says of `work`. Both end with this process, whatever they have started."""
    runner = subprocess.Popen(
        [sys.executable, "-I", "-S", Path(__file__).with_name("runner.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0),
    )
    with runner:
        try:
            said, wrong = runner.communicate(work)
        except BaseException:
            os.killpg(runner.pid, signal.SIGTERM)
            raise
    if runner.returncode != 0:
        raise RuntimeError(wrong[-3000:])
    return said


def measure(work, daemons=(), store=None):
    """Does `work` and answers its `Cost`; raises when it fails.

    `daemons` are the ids of processes that work for it; `store`, if given, counts requests and bytes sent.
    """
    for pid in daemons:
        # Begins the peak anew (proc(5)).
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = {pid: _accounts(pid) for pid in daemons}
    counted = store.count() if store else (0, 0)
    cost = Cost(**json.loads(_run(json.dumps(work))))
    for pid in daemons:
        cpu, read, written = (now - then for now, then in zip(_accounts(pid), before[pid]))
        cost.cpu_seconds += cpu
        cost.read_bytes += read
        cost.written_bytes += written
        cost.peak_bytes = max(cost.peak_bytes, _peak(pid))
    if store:
        cost.requests, cost.sent_bytes = (now - then for now, then in zip(store.count(), counted))
    return cost
