"""What stands in a report, from top to bottom: ``of_a_run``."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from twolayer import plots
from twolayer.network import TwoLayerNet
from twolayer.report import captions, page, pull, words
from twolayer.report.drawing import drawn
from twolayer.report.run import Rows, Run

POINTS, EXAMPLES = 1000, 200
"""Rows that a picture shows, at most: as points, and number by number."""
MOST_CLASSES = 30
"""Beyond, the numbers in a confusion matrix cannot be read."""


@dataclass(frozen=True)
class Answered:
    """What a network, or the mean of several, has answered for some rows: a picture asks it as a model."""

    net: TwoLayerNet
    A2: Tensor

    def __call__(self, X: Tensor) -> Tensor:
        return self.A2


def of_a_run(run: Run) -> Iterator[str]:
    """HTML, a part for each question that a reader has; what needs rows is left out where there are none."""
    remarks = [page.paragraph(remark, "remark") for remark in run.remarks]
    trained = [page.paragraph(words.what_was_trained(run)), *remarks, page.facts(words.settings(run))]
    yield page.section("What was trained on what", *trained)
    if run.judged is not None:
        yield how_good(run, run.judged)
    yield how_it_went(run)
    if run.judged is not None:
        yield what_it_answers(run, run.judged)
    if run.trained is not None:
        yield what_is_inside(run, run.trained.few(POINTS))
        yield who_pulls(run, run.trained)


def how_good(run: Run, rows: Rows) -> str:
    """The scores beside a baseline, and the metrics of the task."""
    scores = words.compared(run, rows)
    score, said = ("RMSE", words.number) if run.model.net.task == "regression" else ("accuracy", words.percent)
    lines = [[name, *map(said, values)] for name, values in scores.items()]
    return page.section(
        "How good it is",
        page.paragraph(words.how_good(run, rows, scores)),
        page.table(["", score, "95 % from", "to"], lines),
        page.table(["metric", "value", "what it is"], words.measured(run, rows)),
    )


def how_it_went(run: Run) -> str:
    """The learning curves."""
    went = words.course(run)
    if went is None:
        return page.section("How it went", page.paragraph("There is no metrics.csv beside the run, and so no curves."))
    svg = drawn(lambda ax: plots.learning_curves(run.folder, ax=ax))
    return page.section("How it went", page.figure(svg, went))


def what_it_answers(run: Run, rows: Rows) -> str:
    """Confusion matrix and calibration, or residuals; and the plane of two features."""
    net, few, figures = run.model.net, rows.few(POINTS), []
    A2, names = run.outputs(rows), run.predictor.classes
    answered = Answered(net, A2)
    if net.task in ("binary", "multiclass") and net.in_features == 2:
        svg = drawn(lambda ax: plots.decision_boundary(run.model, few.X, few.Y, class_names=names, ax=ax), height=4.6)
        figures.append(page.figure(svg, captions.boundary(run, few, run.outputs(few))))
    if net.task in ("binary", "multiclass") and len(names) <= MOST_CLASSES:
        height = min(8.0, 3.2 + 0.12 * len(names))
        svg = drawn(
            lambda ax: plots.confusion_matrix(answered, rows.X, rows.Y, class_names=names, ax=ax), height=height
        )
        figures.append(page.figure(svg, captions.confused(run, rows, A2)))
    if net.task == "regression":
        shown = Answered(net, run.outputs(few))
        svg = drawn(lambda ax: plots.residuals(shown, few.X, few.Y, ax=ax))
        figures.append(page.figure(svg, captions.missed(run, few, shown.A2)))
    else:
        svg = drawn(lambda ax: plots.calibration(answered, rows.X, rows.Y, ax=ax), height=4.0)
        figures.append(page.figure(svg, captions.calibrated(run, rows, A2)))
    return page.section("What it answers", *figures)


def what_is_inside(run: Run, rows: Rows) -> str:
    """The hidden units, and what flows back through them."""
    few = rows.few(EXAMPLES)
    units = drawn(lambda ax: plots.hidden_units(run.model, rows.X, ax=ax))
    sizes = drawn(lambda ax: plots.gradient_flow(run.model, rows.X, rows.Y, ax=ax))
    numbers = drawn(lambda ax: plots.backward_pass(run.model, few.X, few.Y, ax=ax), width=10.0, height=4.0)
    return page.section(
        "What is inside",
        page.figure(units, captions.units(run, rows)),
        page.figure(sizes, captions.flows(run, rows)),
        page.figure(numbers, captions.backwards(run, few), wide=True),
    )


def who_pulls(run: Run, rows: Rows) -> str:
    """The norms of single examples' gradients, and the rows that pull most."""
    found = pull.pull(run, rows)
    svg = drawn(lambda ax: pull.sorted_norms(found, ax))
    advice = "Look at these rows: a wrong label, an outlier, or what has yet to be learnt."
    return page.section(
        "Which rows pull most",
        page.figure(svg, pull.told(found)),
        page.paragraph(advice),
        page.table(*pull.greatest(run, found)),
    )
