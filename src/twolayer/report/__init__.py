"""A run as one page that a person looks at: ``twolayer plot``, with the extra ``[plots]``."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twolayer.answers import Answer, Options
from twolayer.extras import missing
from twolayer.files import written_whole

try:
    import matplotlib as matplotlib
except ModuleNotFoundError as error:
    raise missing(error) from None

from twolayer.report import course, inside, page, plane, predictions, pull, scores, trained
from twolayer.report.run import Rows, Run, checkpoint_of, read_run, run_folder

POINTS = 1000
"""Rows that a picture shows one by one, at most."""


def plot(args: Sequence[str]) -> Path:
    """Writes the report of a run; returns its path.

    Args:
        args: what stands behind ``twolayer plot``.

    Raises:
        Answer, ValueError, OSError: the message says in one line what is wrong.
    """
    parser = Options("twolayer plot", "Write a run's report: one page of HTML, to be opened in a browser.")
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of a fit, or the folder of its run")
    parser.add_argument("--output", help="HTML file (default: report.html beside the run's logs)")
    options = parser.parse_args(args)
    if options.output is not None and Path(options.output).suffix.lower() not in (".html", ".htm"):
        raise Answer(f"--output must end with .html, got {options.output}")
    return write(options.ckpt_path, options.output)


def write(ckpt_path: str, output: str | None = None, data: Any = None) -> Path:
    """Writes the report of a run, says where, and what it had to leave out; returns its path.

    Args:
        ckpt_path: a checkpoint, or the folder of a run.
        output: the HTML file; None for ``report.html`` beside the run's logs.
        data: its DataModule, where it has just been trained on.

    Raises:
        Answer, ValueError, OSError: see :func:`~twolayer.report.run.read_run`; or the file cannot be written.
    """
    path = run_folder(checkpoint_of(ckpt_path)) / "report.html" if output is None else Path(output)
    run = read_run(ckpt_path, data)
    subtitle = f"Run {'/'.join(run.folder.parts[-3:])}"
    footer = f"Written by twolayer plot from {run.checkpoint.name}. This page needs nothing beside itself."
    html = page.whole(trained.title(run), subtitle, sections(run), footer)
    with written_whole(path, encoding="utf-8") as file:
        file.write(html)
    for remark in run.remarks:
        print(remark)
    print(f"Report: {os.path.relpath(path)}")
    return path


def sections(run: Run) -> Iterator[str]:
    """HTML, a part for each question that a reader has; what needs rows is left out where there are none."""
    yield trained.section(run)
    if run.judged is not None:
        yield scores.section(run, run.judged)
    yield course.section(run)
    if run.judged is not None:
        yield _what_it_answers(run, run.judged)
    if run.trained is not None:
        yield inside.section(run, run.trained.few(POINTS))
        yield pull.section(run, run.trained)


def _what_it_answers(run: Run, rows: Rows) -> str:
    in_the_plane = plane.figure(run, rows.few(POINTS))
    figures = [*([] if in_the_plane is None else [in_the_plane]), *predictions.figures(run, rows)]
    return page.section("What it answers", *figures)
