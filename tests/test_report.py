"""The report of a run: what it says is so, for every kind of run, and a browser shows it without a fault."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

pytest.importorskip("jsonargparse")
pytest.importorskip("lightning")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
polars = pytest.importorskip("polars")

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from twolayer import cli, plots, report
from twolayer.data import Moons, TabularDataModule
from twolayer.network import gradients_by_autograd
from twolayer.report.drawing import drawn
from twolayer.report.run import read_run
from twolayer.training import LitTwoLayer

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
NASTY = ("<script>alert(1)</script>", "$x_$2$ & more")
MOST_BYTES = 2_000_000

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "error:constrained_layout"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*arguments):
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    return cli.main(["fit", *quiet, *arguments])


def of(data, *arguments, name="run"):
    """A short fit of a bundled data set."""
    csv_logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", f"--trainer.logger.name={name}"]
    shape = ["--model.hidden_features=5", "--model.activation=tanh", "--trainer.max_epochs=4"]
    return fit(f"--data={data}", *csv_logger, *shape, *arguments)


def points(rows=150):
    """Two columns of numbers, one with gaps, whose names and classes a page and a picture must take as they are."""
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, 2))
    with Path("points.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cost $", "<b>width</b>", "kind"])
        for i, (a, b) in enumerate(X):
            writer.writerow(["" if i % 9 == 4 else f"{a:.3f}", f"{b:.3f}", NASTY[int(a + b > 0)]])
    return "points.csv"


class Page(HTMLParser):
    """The text of a page, its pictures with their names, and whatever it would fetch."""

    def __init__(self, path):
        super().__init__()
        self.text, self.pictures, self.captions, self.fetched, self.scripts, self.within = [], [], [], [], 0, []
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.within.append(tag)
        self.scripts += tag == "script"
        if tag in ("svg", "img"):
            self.pictures.append(found.get("aria-label" if tag == "svg" else "alt") or "")
        if tag == "figcaption":
            self.captions.append("")
        named = ("src", "srcset", "href", "xlink:href", "data", "action")
        values = [found[name] for name in named if found.get(name)]
        values += re.findall(r"url\(([^)]*)\)", found.get("style") or "")
        self.fetched += [value for value in values if not value.startswith(("#", "data:"))]

    def handle_endtag(self, tag):
        while self.within and self.within.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.within and "svg" not in self.within:
            self.text.append(data)
        if "figcaption" in self.within:
            self.captions[-1] += data


def sentences(text):
    return re.split(r"(?<=[.:;]) ", text)


def checked(path):
    """What must hold of every page."""
    page = Page(path)
    assert Path(path).stat().st_size < MOST_BYTES
    assert page.pictures
    assert len(page.captions) == len(page.pictures)
    for shown, caption in zip(page.pictures, page.captions, strict=True):  # a screen reader reads both
        for text in (shown, caption):
            assert re.search(r"\d", text)
            assert len(text) > 40
        assert not {*sentences(shown)} & {*sentences(caption)}
        assert shown.split()[:5] != caption.split()[:5]
    assert page.fetched == []
    assert page.scripts == 0
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert "nan" not in page.words.lower().split()
    return page


# What it says.


def test_what_it_says_of_two_classes_is_so(capsys):
    ran = of("Moons", "--data.n_samples=300", "--trainer.max_epochs=30", "--model.optimizer.lr=0.05")
    cli.main(["plot", "--ckpt_path", "runs/run/version_0"])
    assert capsys.readouterr().out.splitlines()[-1] == "Report: runs/run/version_0/report.html"
    page = checked("runs/run/version_0/report.html")
    data = Moons(n_samples=300)
    X, Y = data.tensors
    train, test = data.splits["train"], data.splits["test"]
    accuracy = ran.trainer.callback_metrics["test_accuracy"].item()
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[train], Y[train]).score(X[test], Y[test])
    majority = (Y[test] == Y[train].mode().values).double().mean().item()
    text = page.words
    assert f"On the 45 test rows, the network is right in {100 * accuracy:.1f} %" in text
    assert f"majority class {100 * majority:.1f} %" in text
    assert f"logistic regression {100 * linear:.1f} %" in text
    assert "Adam, learning rate 0.05" in text
    assert "2 → 5 (tanh) → 1, 21 weights" in text
    assert f"{round(45 * accuracy)} of 45 rows" in text
    assert len(page.pictures) == 8  # curves, plane, confusion, calibration, units, flow, backward pass, pull
    with Path("runs/run/version_0/metrics.csv").open() as file:
        costs = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert f"lowest {min(costs):.3g} in epoch {costs.index(min(costs))}" in text or min(costs) == costs[-1]


def test_the_rows_that_pull_most_are_those_of_the_greatest_gradients():
    of("Moons", "--data.n_samples=60")
    run = read_run("runs/run/version_0")
    model = LitTwoLayer.load_from_checkpoint(run.checkpoint)
    data = Moons(n_samples=60)
    X, Y = data.tensors
    norms = {}
    for i in data.splits["train"].tolist():
        inputs, T, _ = model.prepared(X[i : i + 1], Y[i : i + 1])
        _, grads = gradients_by_autograd(model.net, inputs, T)
        norms[i] = torch.cat([dV.flatten() for dV in grads.values()]).norm().item()
    first = sorted(norms, key=norms.get, reverse=True)
    report.write("runs/run/version_0")
    page = checked("runs/run/version_0/report.html")
    cells = re.findall(r"<tr><td[^>]*>(\d+)</td>.*?([\d.]+)</td></tr>", page.source.partition("pull most</h2>")[2])
    assert [int(row) for row, _ in cells] == first[:10]
    assert [float(norm) for _, norm in cells] == pytest.approx([norms[i] for i in first[:10]], rel=6e-3)
    share = sum(norms[i] for i in first[:10]) / sum(norms.values())
    assert f"{100 * share:.1f} % of the sum" in page.words


def test_units_that_are_alike_are_said():
    of("Moons", "--data.n_samples=60", "--model.init=zeros")
    report.write("runs/run/version_0")
    assert "5 are twins" in checked("runs/run/version_0/report.html").words


def test_curves_that_hardly_move_leave_room_for_their_names():
    """Their ends are far apart on the scale of the curves, and on top of each other on that of axes without any."""
    Path("metrics.csv").write_text("epoch,train_loss,val_loss\n0,0.757,0.740\n1,0.756,0.739\n2,0.755,0.738\n")
    svg = drawn(lambda ax: plots.learning_curves("metrics.csv", ax=ax))
    places = {word: float(y) for y, word in re.findall(r'<text [^>]* y="([-\d.]+)"[^>]*>(\w+)</text>', svg)}
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1])
    assert 0 < places["training"] < height / 2 < places["validation"] < height


# Every kind of run.


class Labels(TabularDataModule):
    """Two labels for each row."""

    task = "multilabel"

    def load(self):
        X = np.random.default_rng(0).normal(size=(80, 3))
        return X, np.stack([X[:, 0] > 0, X[:, 1] > X[:, 2]], 1).astype(int)


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        ("Flower", ["--data.val_fraction=0", "--data.test_fraction=0", "--checkpoint.monitor=train_loss"], "held out"),
        ("Blobs", ["--data.centers=3"], "3 classes"),
        ("Digits", [], "10 classes"),
        ("Diabetes", [], "ridge regression"),
        ("test_report.Labels", [], "most common labels"),
        ("Moons", ["--model.class_weight=balanced", "--model.activation=relu"], "majority class"),
        ("Moons", ["--trainer.max_epochs=1", "--model.hidden_features=1"], "1 hidden unit"),
    ],
)
def test_every_kind_of_data(data, arguments, words, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests")
    if "Flower" in data:
        arguments = [*arguments, "--early_stopping.monitor=train_loss"]
    of(data, *arguments)
    report.write("runs/run/version_0/checkpoints/best.ckpt")
    assert words in checked("runs/run/version_0/report.html").words


def test_a_table_with_two_columns_of_numbers_and_names_that_are_markup(capsys):
    fit("--data.path", points(), "--data.target=kind", "--trainer.max_epochs=3", "--members=2", "--plots", "true")
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "Report: runs/points/version_0/report.html"
    assert not any("To see it" in line for line in said)
    page = checked("runs/points/version_0/report.html")
    network = re.search(r"2 networks +([\d.]+)", "\n".join(said))[1]
    assert f"the 2 networks are right in {100 * float(network):.1f}" in page.words
    assert "points.csv" in page.words
    for name in (*NASTY, "<b>width</b>"):
        assert name in page.words
        assert name not in page.source.replace("$x_$2$ & more", "") or "<" not in name
    assert any(text.startswith("The plane of cost $ and <b>width</b>") for text in page.pictures)


def test_a_streamed_table():
    polars.read_csv(points(400)).write_parquet("points.parquet", row_group_size=100)
    fit(
        *("--data=StreamedTable", "--data.path=points.parquet", "--data.target=kind", "--data.batch_size=64"),
        "--trainer.max_epochs=2",
    )
    report.write("runs/points/version_0")
    assert "points.parquet" in checked("runs/points/version_0/report.html").words


def test_without_a_logger_there_are_no_curves(capsys):
    of("Moons", "--trainer.logger=false")
    assert "plot --ckpt_path checkpoints/best.ckpt" in capsys.readouterr().out
    report.write("checkpoints/best.ckpt")
    page = checked("report.html")
    assert "There is no metrics.csv beside the run" in page.words
    assert "How good it is" in page.words


def test_damaged_curves_are_said_and_the_rest_is_there():
    of("Moons")
    path = Path("runs/run/version_0/metrics.csv")
    for text, words in (("epoch,val_loss\n0,abc", "'abc'"), ("step,val_loss\n0,1", "against 'epoch'"), ("", "nothing")):
        path.write_text(text)
        report.write("runs/run/version_0")
        page = checked("runs/run/version_0/report.html")
        assert "There are no curves: " in page.words
        assert words in page.words
        assert len(page.pictures) == 7


def test_a_folder_that_was_moved():
    of("Moons")
    shutil.move("runs/run/version_0", "elsewhere")
    shutil.rmtree("runs")
    assert report.write("elsewhere") == Path("elsewhere/report.html").resolve()
    assert "How good it is" in checked("elsewhere/report.html").words


@pytest.mark.parametrize("gone", ["points.csv", "runs/points/version_0/config.yaml"])
def test_data_that_are_gone_are_said_and_the_rest_is_there(gone, capsys):
    fit("--data.path", points(), "--data.target=kind", "--trainer.max_epochs=2")
    Path(gone).unlink()
    capsys.readouterr()
    report.write("runs/points/version_0")
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("The data cannot be had, so what shows rows is left out: ")
    assert Path(gone).name in first
    assert len(first) < 200
    assert last.startswith("Report: ")
    page = checked("runs/points/version_0/report.html")
    assert len(page.pictures) == 1
    assert "The data cannot be had" in page.words
    assert "35 inputs" in page.words or "inputs, 256 hidden units" in page.words


def test_data_that_have_changed_are_said(capsys):
    fit("--data.path", points(), "--data.target=kind", "--trainer.max_epochs=2")
    points(160)
    report.write("runs/points/version_0")
    assert "trained on another split" in checked("runs/points/version_0/report.html").words


# What is wrong is one line.


def answer(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["twolayer", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("twolayer: error: ")
    return end.value.code, line


def test_what_cannot_be_plotted_is_one_line(monkeypatch, capsys):
    of("Moons")
    best = Path("runs/run/version_0/checkpoints/best.ckpt")
    whole = best.read_bytes()
    Path("cut.ckpt").write_bytes(whole[:-1000])
    Path("changed.ckpt").write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    Path("empty.ckpt").write_bytes(b"")
    Path("words.ckpt").write_text("just words")
    torch.save({"state_dict": {"weight": torch.ones(2)}}, "other.ckpt")
    Path("nothing").mkdir()
    rows = [
        ("--ckpt_path nowhere.ckpt", 2, "nowhere.ckpt"),
        ("--ckpt_path http://127.0.0.1:9/best.ckpt", 2, "http://127.0.0.1:9/best.ckpt"),
        ("--ckpt_path nothing", 2, "no checkpoint"),
        ("--ckpt_path cut.ckpt", 1, "cut.ckpt"),
        ("--ckpt_path changed.ckpt", 1, "checksum"),
        ("--ckpt_path empty.ckpt", 1, "empty"),
        ("--ckpt_path words.ckpt", 1, "words.ckpt"),
        ("--ckpt_path other.ckpt", 1, "other.ckpt"),
        (f"--ckpt_path {best} --output report.pdf", 2, ".html"),
        (f"--ckpt_path {best} --output moons.yaml/report.html", 1, "moons.yaml"),
        ("", 2, "--ckpt_path"),
        (f"--ckpt_path {best} --theme dark", 2, "--theme"),
        (f"--ckpt {best}", 2, "--ckpt_path"),
    ]
    Path("moons.yaml").write_text("model: 3")
    capsys.readouterr()
    for arguments, status, words in rows:
        found, line = answer(["plot", *arguments.split()], monkeypatch, capsys)
        assert (found, words in line) == (status, True), line
    assert not list(Path().rglob("*.html"))
    for arguments in (["fit", "--plots", "maybe"], ["fit", "--plots"], ["test", "--plots=true"]):
        found, line = answer(arguments, monkeypatch, capsys)
        assert (found, "--plots" in line) == (2, True), line


def test_the_extra_that_is_missing_is_said_before_a_fit(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "twolayer.report", "twolayer.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("twolayer.report")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for arguments in (["plot", "--ckpt_path", "runs"], ["fit", "--plots", "true", "--data", "Moons"]):
        found, line = answer(arguments, monkeypatch, capsys)
        assert (found, line) == (1, "twolayer: error: this needs matplotlib: pip install 'twolayer[plots]'")


def test_a_report_that_fails_leaves_the_former_one(monkeypatch):
    of("Moons")
    path = report.write("runs/run/version_0")
    before = path.read_bytes()

    def broken(run):
        yield "<section>"
        raise RuntimeError("no more")

    monkeypatch.setattr(report, "sections", broken)
    with pytest.raises(RuntimeError, match="no more"):
        report.write("runs/run/version_0")
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.glob("report*")] == ["report.html"]


# In processes, as a person runs them, and in a browser.

LOOK = """<body><iframe id="page" src="{page}" style="width: {width}px; height: 3000px; border: 0"></iframe>
<script>
window.onload = () => {{
  const page = document.getElementById("page").contentDocument, style = (one) => getComputedStyle(one);
  const pictures = [...page.querySelectorAll("svg")].map((svg) => ({{
    name: svg.getAttribute("aria-label"),
    width: svg.getBoundingClientRect().width,
    scrolls: svg.parentElement.className === "wide",
    letters: Math.min(...[...svg.querySelectorAll("text")].map((text) =>
      parseFloat(style(text).fontSize) * svg.getScreenCTM().a)),
    outside: [...svg.querySelectorAll("text:not(:has(tspan)), tspan")].filter((text) => {{
      const [a, b] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
      return a.left < b.left - 3 || a.right > b.right + 3 || a.top < b.top - 3 || a.bottom > b.bottom + 3;
    }}).map((text) => text.textContent),
    ink: style(svg.querySelector("text")).fill,
  }}));
  const found = {{
    pictures, wide: page.documentElement.scrollWidth, back: style(page.body).backgroundColor,
    color: style(page.body).color, title: page.title,
    fetched: page.defaultView.performance.getEntriesByType("resource").map((one) => one.name),
  }};
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
}};
</script></body>"""


def looked_at(page, tmp_path, width=1100, dark=False):
    """What Chromium says of a page, and what it complains of."""
    wrapper = tmp_path / "look.html"
    wrapper.write_text(LOOK.format(page=Path(page).resolve().as_uri(), width=width), encoding="utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--blink-settings=preferredColorScheme=0",) * dark,
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", wrapper.as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(re.search("FOUND(.*)END", ran.stdout, re.DOTALL)[1]))


def brightness(color):
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 765


@pytest.mark.slow
@in_a_browser
def test_in_a_browser(tmp_path):
    fit("--data.path", points(), "--data.target=kind", "--trainer.max_epochs=3")
    page = report.write("runs/points/version_0")
    for width, dark in ((390, False), (1100, True)):
        found = looked_at(page, tmp_path, width, dark)
        assert found["title"] == "points.csv: what 256 hidden units learnt"
        assert found["fetched"] == []
        assert found["wide"] <= width  # nothing beside the page
        assert len(found["pictures"]) == 8
        for picture in found["pictures"]:
            assert picture["name"]
            assert picture["outside"] == []
            assert picture["letters"] > 7.5
            assert picture["scrolls"] or picture["width"] <= width
            assert abs(brightness(picture["ink"]) - brightness(found["back"])) > 0.4
        assert (brightness(found["back"]) < 0.2) == dark
        assert abs(brightness(found["color"]) - brightness(found["back"])) > 0.7


@pytest.mark.slow
def test_the_line_that_a_fit_ends_with_writes_the_report(tmp_path):
    Path("moons.yaml").write_text(
        "data: {class_path: twolayer.data.Moons}\nmodel: {hidden_features: 3}\ntrainer: {max_epochs: 2, logger: "
        "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: runs, name: moons}}}\n"
    )

    def run(*arguments):
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        paths = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, env=paths, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()[-1]

    line = run("fit", "--config", "moons.yaml")
    best = "runs/moons/version_0/checkpoints/best.ckpt"
    assert line == f"To see it: python {ROOT / 'train.py'} plot --ckpt_path {best}"
    assert run(*line.split()[5:]) == "Report: runs/moons/version_0/report.html"
    checked("runs/moons/version_0/report.html")
