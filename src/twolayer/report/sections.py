"""What stands in a report, from top to bottom: ``sections``."""

from collections.abc import Iterator

from matplotlib.axes import Axes

from twolayer import plots
from twolayer.report import page, pull, words
from twolayer.report.captions import boundary, calibrated, confused, flows, missed, units
from twolayer.report.drawing import drawn
from twolayer.report.run import Rows, Run

POINTS = 1000
"""Rows that a picture shows, at most."""


def sections(run: Run) -> Iterator[str]:
    """HTML, a part for each question that a reader has; what needs rows is left out where there are none."""
    remarks = [page.paragraph(remark, "remark") for remark in run.remarks]
    yield page.section(
        "What was trained on what",
        page.paragraph(words.what_was_trained(run)),
        *remarks,
        page.facts(words.settings(run)),
    )
    judged, trained = run.judged, run.trained
    if judged is not None:
        yield _how_good(run, judged)
    yield _curves(run)
    if judged is not None and trained is not None:
        yield from _answers(run, judged.few(POINTS))
        yield from _inside(run, trained.few(POINTS))
        yield _who_pulls(run, trained)


def _how_good(run: Run, rows: Rows) -> str:
    scores = words.compared(run, rows)
    score, said = ("RMSE", words.number) if run.model.net.task == "regression" else ("accuracy", words.percent)
    lines = [[name, *map(said, values)] for name, values in scores.items()]
    return page.section(
        "How good it is",
        page.paragraph(words.how_good(run, rows, scores)),
        page.table(["", score, "at least", "at most (95 %)"], lines),
        page.table(["metric", "value", "what it is"], words.measured(run, rows)),
    )
