"""The figures of a run as tables: medians, the spread, and ratios to the first line of each place."""

from statistics import median

MIB = 1 << 20

# Name: (heading, value of one cost, digits).
FIGURES = {
    "seconds": ("seconds", lambda cost: cost.seconds, 2),
    "rate": ("MiB/s", lambda cost: cost.more["bytes"] / MIB / cost.seconds, 0),
    "cpu": ("CPU s", lambda cost: cost.cpu_seconds, 2),
    "peak": ("peak MiB", lambda cost: cost.peak_bytes / MIB, 0),
    "requests": ("requests", lambda cost: cost.requests, 0),
    "sent": ("sent MiB", lambda cost: cost.sent_bytes / MIB, 1),
    "stored": ("stored MiB", lambda cost: cost.more["stored"] / MIB, 0),
    "restore": ("restore s", lambda cost: cost.more["restore"], 1),
    "recovery": ("recovery s", lambda cost: cost.more["recovery"], 1),
    "segments": ("segments replayed", lambda cost: cost.more["segments"], 0),
    "tps": ("transactions/s", lambda cost: cost.more["tps"], 0),
    "waiting": ("segments waiting at the end", lambda cost: cost.more["waiting"], 0),
}
NOT_ON_DISK = ("requests", "sent")


def middle(costs, figure):
    return median(FIGURES[figure][1](cost) for cost in costs)


def _cell(costs, figure, place):
    heading, value, digits = FIGURES[figure]
    if figure in NOT_ON_DISK and not place.s3:
        return "–"
    values = sorted(value(cost) for cost in costs)
    text = f"{median(values):.{digits}f}"
    if figure in ("seconds", "tps", "restore") and len(values) > 1:
        text += f" ({values[0]:.{digits}f}–{values[-1]:.{digits}f})"
    return text


def table(row, results):
    """`results`: by variant a list of costs, or the reason why there is none."""
    main = "tps" if "tps" in row.FIGURES else "seconds"
    lines = ["| place | tool | " + " | ".join(FIGURES[name][0] for name in row.FIGURES) + f" | {FIGURES[main][0]}, beside the first |",
             "|---|---|" + "---:|" * (len(row.FIGURES) + 1)]
    first = {}
    for variant, costs in results.items():
        if isinstance(costs, str):
            lines.append(f"| {variant.place.name} | {variant.title} | {costs} |" + " |" * len(row.FIGURES))
            continue
        base = first.setdefault(variant.place, middle(costs, main))
        cells = [_cell(costs, name, variant.place) for name in row.FIGURES]
        lines.append(f"| {variant.place.name} | {variant.title} | " + " | ".join(cells) + f" | {middle(costs, main) / base:.2f} |")
    return "\n".join(lines)


def aims(row, results):
    """A sentence for each aim: reached, or by how much not."""
    named = {(variant.title, variant.place): costs for variant, costs in results.items()}
    for ours, place, theirs, factor in row.AIMS:
        one, other = named.get((ours, place)), named.get((theirs, place))
        if not isinstance(one, list) or not isinstance(other, list):
            yield f"- {ours} beside {theirs}: not measured."
            continue
        found = middle(other, "seconds") / middle(one, "seconds")
        verdict = "reached" if found >= factor else "**not reached**"
        yield f"- {ours}, on {place.name}: {found:.2f} times as fast as {theirs}; the aim is {factor:g}: {verdict}."
