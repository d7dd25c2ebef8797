"""What a table can show of a run's cost."""

from dataclasses import dataclass
from typing import Callable

MIB = 1 << 20


@dataclass(frozen=True)
class Figure:
    heading: str
    value: Callable
    digits: int
    # With its smallest and its largest value.
    spread: bool = False
    # Means nothing on a disk.
    only_s3: bool = False


ALL = {
    "seconds": Figure("seconds", lambda cost: cost.seconds, 2, spread=True),
    "each": Figure("ms each", lambda cost: cost.seconds * 1000 / cost.more["times"], 2, spread=True),
    "rate": Figure("MiB/s", lambda cost: cost.more["bytes"] / MIB / cost.seconds, 0),
    "cpu": Figure("CPU s", lambda cost: cost.cpu_seconds, 2),
    "peak": Figure("peak MiB", lambda cost: cost.peak_bytes / MIB, 0),
    "read": Figure("read MiB", lambda cost: cost.read_bytes / MIB, 0),
    "written": Figure("written MiB", lambda cost: cost.written_bytes / MIB, 0),
    "requests": Figure("requests", lambda cost: cost.requests, 0, only_s3=True),
    "sent": Figure("sent MiB", lambda cost: cost.sent_bytes / MIB, 1, only_s3=True),
    "stored": Figure("stored MiB", lambda cost: cost.more["stored"] / MIB, 0),
    "changed": Figure("changed MiB", lambda cost: cost.more["changed"] / MIB, 0),
    "read per changed byte": Figure("bytes read for each that changed", lambda cost: cost.read_bytes / cost.more["changed"], 1),
    "restore": Figure("restore s", lambda cost: cost.more["restore"], 1, spread=True),
    "recovery": Figure("recovery s", lambda cost: cost.more["recovery"], 1),
    "segments": Figure("segments replayed", lambda cost: cost.more["segments"], 0),
    "tps": Figure("transactions/s", lambda cost: cost.more["tps"], 0, spread=True),
    "waiting": Figure("segments waiting at the end", lambda cost: cost.more["waiting"], 0),
}


def values(costs, name):
    """A figure of every run that has it, ascending."""
    found = []
    for cost in costs:
        try:
            found.append(ALL[name].value(cost))
        except KeyError:
            pass
    return sorted(found)
