"""What Walward must reach, and the sentences that say whether it does."""

from dataclasses import dataclass
from statistics import median

import figures
from tools import Place


def middle(costs, figure):
    """The median of a figure; `None` when there is nothing to take it from."""
    values = figures.values(costs, figure) if isinstance(costs, list) else []
    return median(values) if values else None


def _verdict(reached):
    return "reached" if reached else "**not reached**"


@dataclass(frozen=True)
class Faster:
    """`ours` at `place` is `factor` times as fast as `theirs`, at `beside` if that is another place."""

    ours: str
    place: Place
    theirs: str
    factor: float
    figure: str = "seconds"
    beside: Place = None

    def said(self, results):
        beside = self.beside or self.place
        one = middle(results.get((self.ours, self.place)), self.figure)
        other = middle(results.get((self.theirs, beside)), self.figure)
        heading = figures.ALL[self.figure].heading
        what = f"{self.ours}, {self.place.name}, beside {self.theirs}" + (f", {beside.name}" if self.beside else "")
        if not one or not other:
            return f"- {what} ({heading}): not measured."
        found = other / one
        return f"- {what} ({heading}): {found:.2f} times as fast; the aim is {self.factor:.2g}: {_verdict(found >= self.factor)}."


@dataclass(frozen=True)
class AtMost:
    """A figure of `ours` at `place` is at most `most`."""

    ours: str
    place: Place
    figure: str
    most: float

    def said(self, results):
        found = middle(results.get((self.ours, self.place)), self.figure)
        what = f"- {self.ours}, {self.place.name}, {figures.ALL[self.figure].heading}"
        if found is None:
            return f"{what}: not measured."
        digits = figures.ALL[self.figure].digits
        return f"{what}: {found:.{digits}f}; the aim is at most {self.most:g}: {_verdict(found <= self.most)}."
