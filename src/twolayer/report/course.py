"""How the cost went, from the run's ``metrics.csv``."""

import csv

from twolayer import plots
from twolayer.report import page
from twolayer.report.drawing import drawn
from twolayer.report.run import Run
from twolayer.report.wording import number

COLUMNS = {"train_loss": "training", "val_loss": "validation"}


def section(run: Run) -> str:
    """The learning curves, or that there are none."""
    found = {called: costs for name, called in COLUMNS.items() if (costs := _costs(run, name))}
    if not found:
        return page.section("How it went", page.paragraph("There is no metrics.csv beside the run, and so no curves."))
    epochs = [epoch for costs in found.values() for epoch, _ in costs]
    shown = (
        f"Learning curves: the cost on the {' and the '.join(found)} rows against the epoch, from {min(epochs)} to "
        f"{max(epochs)}."
    )
    svg = drawn(lambda ax: plots.learning_curves(run.folder, ax=ax))
    return page.section("How it went", page.figure(svg, shown, _went(found)))


def _went(found: dict[str, list[tuple[int, float]]]) -> str:
    """From where to where, and where it was lowest."""
    lines = []
    for called, costs in found.items():
        epochs, values = zip(*costs, strict=True)
        least = min(range(len(values)), key=values.__getitem__)
        text = f"from {number(values[0])} in epoch {epochs[0]} to {number(values[-1])} in epoch {epochs[-1]}"
        lowest = f", the lowest {number(values[least])} in epoch {epochs[least]}"
        lines.append(f"the cost on the {called} rows went {text}{lowest if 0 < least < len(values) - 1 else ''}")
    text = "; ".join(lines)
    return text[:1].upper() + text[1:] + "."


def _costs(run: Run, name: str) -> list[tuple[int, float]]:
    """A column of ``metrics.csv`` with the epoch of each value."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(row["epoch"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
