"""The figures of a run as tables: medians, the spread, and ratios to the first line of each place."""

from statistics import median

import figures


def _cell(costs, name, place):
    figure, values = figures.ALL[name], figures.values(costs, name)
    if not values or (figure.only_s3 and not place.s3):
        return "–"
    text = f"{median(values):.{figure.digits}f}"
    if figure.spread and len(values) > 1:
        text += f" ({values[0]:.{figure.digits}f}–{values[-1]:.{figure.digits}f})"
    return text


def table(row, results):
    """`results`: by variant a list of costs, or the reason why there is none. The row's first figure is the one that is compared."""
    main = row.FIGURES[0]
    headings = [figures.ALL[name].heading for name in row.FIGURES]
    lines = ["| place | tool | " + " | ".join(headings) + f" | {headings[0]}, beside the first |",
             "|---|---|" + "---:|" * (len(row.FIGURES) + 1)]
    first = {}
    for variant, costs in results.items():
        if isinstance(costs, str):
            lines.append(f"| {variant.place.name} | {variant.title} | {costs} |" + " |" * len(row.FIGURES))
            continue
        found = median(figures.values(costs, main))
        base = first.setdefault(variant.place, found)
        cells = [_cell(costs, name, variant.place) for name in row.FIGURES]
        lines.append(f"| {variant.place.name} | {variant.title} | " + " | ".join(cells) + f" | {found / base:.2f} |")
    return "\n".join(lines)


def aims(row, results):
    """A sentence for each aim: reached, or by how much not."""
    named = {(variant.title, variant.place): costs for variant, costs in results.items()}
    return [aim.said(named) for aim in row.AIMS]
