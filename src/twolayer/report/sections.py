"""What stands in a report, from top to bottom: ``of_a_run``."""

from collections.abc import Iterator

from matplotlib.axes import Axes

from twolayer import plots
from twolayer.report import captions, page, pull, words
from twolayer.report.asked import Plane, answered, in_a_picture, plane
from twolayer.report.drawing import drawn
from twolayer.report.run import Rows, Run

POINTS, EXAMPLES = 1000, 200
"""Rows that a picture shows, at most: as points, and number by number."""
MOST_CLASSES = 30
"""Beyond, the numbers in a confusion matrix cannot be read."""


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
    """The plane of two features, and confusion matrix and calibration, or residuals."""
    task, few, figures = run.model.net.task, rows.few(POINTS), []
    names = [in_a_picture(name) for name in run.predictor.classes]
    asked, asked_few = answered(run, rows), answered(run, few)
    if (found := plane(run, few)) is not None:
        svg = drawn(lambda ax: _boundary(found, names, ax), height=4.6)
        figures.append(page.figure(svg, captions.boundary(run, found)))
    if task in ("binary", "multiclass") and len(names) <= MOST_CLASSES:
        svg = drawn(
            lambda ax: plots.confusion_matrix(asked, rows.X, rows.Y, class_names=names, ax=ax),
            height=min(8.0, 3.2 + 0.12 * len(names)),
        )
        figures.append(page.figure(svg, captions.confused(run, rows, asked.answer(rows.X))))
    if task == "regression":
        svg = drawn(lambda ax: plots.residuals(asked_few, few.X, few.Y, ax=ax))
        figures.append(page.figure(svg, captions.missed(few, asked_few.answer(few.X))))
    else:
        svg = drawn(lambda ax: plots.calibration(asked, rows.X, rows.Y, ax=ax), height=4.0)
        figures.append(page.figure(svg, captions.calibrated(run, rows, asked.answer(rows.X))))
    return page.section("What it answers", *figures)


def _boundary(found: Plane, names: list[str], ax: Axes) -> None:
    plots.decision_boundary(found.asked, found.rows.X, found.rows.Y, class_names=names, ax=ax)
    ax.set(xlabel=in_a_picture(found.names[0]), ylabel=in_a_picture(found.names[1]))


def what_is_inside(run: Run, rows: Rows) -> str:
    """The hidden units, and what flows back through them."""
    few = rows.few(EXAMPLES)
    units = drawn(lambda ax: plots.hidden_units(run.model, rows.X, ax=ax))
    sizes = drawn(lambda ax: plots.gradient_flow(run.model, few.X, few.Y, ax=ax))
    numbers = drawn(lambda ax: plots.backward_pass(run.model, few.X, few.Y, ax=ax), width=10.0, height=4.0)
    return page.section(
        "What is inside",
        page.figure(units, captions.units(run, rows)),
        page.figure(sizes, captions.flows(run, few)),
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
