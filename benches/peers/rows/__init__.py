"""A row of the comparison is a file here. Each has:

- `TITLE`, and `TEXT`: what is done and how it is checked;
- `AIMS`: what Walward must reach (`aims.py`);
- `variants()`: the `Variant`s that are measured in turn;
- `measure(stage, variant, room)`: does the work once in `room` and answers its `Cost`; raises when the result is wrong;
- `RUNS`, if there is one: no more runs than that, because one takes long;
- `LIMIT`, if there is one: what keeps it from being faster;
- `FIGURES`: the figures that its table shows, by name, of `figures.py`; the first is the one that is compared.
"""

from contextlib import contextmanager
from dataclasses import dataclass

from tools import DISK, Place


@dataclass(frozen=True)
class Variant:
    """One tool, one place, encrypted or not: a line of a table."""

    tool: type
    place: Place = DISK
    encrypted: bool = False
    # Other words for the line, where a tool is there twice.
    note: str = ""

    @property
    def title(self):
        words = self.tool.name
        if self.tool.encrypts:
            words += ", encrypted" if self.encrypted else ", not encrypted"
        return words + (f", {self.note}" if self.note else "")

    @contextmanager
    def set_up(self, room, cluster, store):
        """The tool, with a repository; it and the server are stopped afterwards."""
        tool = self.tool(room, cluster, self.place, self.encrypted, store)
        try:
            tool.prepare()
            yield tool
        finally:
            cluster.stop("immediate")
            tool.stop()
