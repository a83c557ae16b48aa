"""Tables of one's own: what is learnt of a column, files that are wrong, and the two commands from end to end."""

import csv
import math
import random
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("lightning")
pytest.importorskip("sklearn")
polars = pytest.importorskip("polars")

import twolayer
from twolayer import cli
from twolayer.data import Table, reading
from twolayer.data.parts import at_random, by_groups
from twolayer.data.report import interval
from twolayer.tables.columns import learn
from twolayer.tables.encoding import Encoding

ROWS = 240


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def people(rows=ROWS, seed=0):
    """A table whose label follows from a number, a level and a date."""
    draw = random.Random(seed)
    table = {
        "id": [f"p{i}" for i in range(rows)],
        "age": [],
        "town": [],
        "since": [],
        "empty": [""] * rows,
        "label": [],
    }
    for _ in range(rows):
        age, town, day = draw.uniform(20, 60), draw.choice(["Ulm", "Bonn", "Kiel"]), draw.randrange(1, 700)
        table["age"].append("" if draw.random() < 0.1 else f"{age:.1f}")
        table["town"].append(town)
        table["since"].append(date.fromordinal(738_000 + day).isoformat())
        table["label"].append("yes" if age / 10 + 2 * (town == "Ulm") + day / 300 > 6 else "no")
    return table


def write(name, table, separator=","):
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return name


def fit(*arguments):
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    return cli.main(["fit", *quiet, *arguments])


def read(path):
    with Path(path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The two commands.


def test_two_commands_from_a_file_to_the_names_of_its_classes(capsys, caplog):
    table = people()
    write("my.csv", table)
    command = fit("--data.path", "my.csv", "--data.target", "label", "--data.id", "id", "--trainer.max_epochs=40")
    best = "runs/my/version_0/checkpoints/best.ckpt"
    assert Path(best).is_file()
    out = capsys.readouterr().out
    assert f"twolayer predict --ckpt_path {best} --data.path new.csv" in out
    for said in ("network", "majority class", "logistic regression", "Rows are classes", "predictions_test.csv"):
        assert said in out
    assert command.trainer.callback_metrics["test_accuracy"] > 0.85
    assert "steps_per_call: None" not in caplog.text  # the schedule of steps does not cost the blocks

    new = {name: table[name][:50] for name in ("since", "town", "id", "age")}  # another order, no target
    new["town"] = ["Atlantis", "", *new["town"][2:]]
    write("new.csv", new)
    assert cli.main(["predict", "--ckpt_path", best, "--data.path", "new.csv"]) is None
    rows = read("runs/my/version_0/predictions.csv")
    assert [row["id"] for row in rows] == table["id"][:50]
    assert set(rows[0]) == {"id", "label", "probability_no", "probability_yes"}
    for row in rows:
        assert math.isclose(float(row["probability_no"]) + float(row["probability_yes"]), 1, abs_tol=1e-6)
        assert row["label"] == ("yes" if float(row["probability_yes"]) > 0.5 else "no")
    assert sum(row["label"] == label for row, label in zip(rows[2:], table["label"][2:], strict=False)) > 40

    cli.main(["predict", "--ckpt_path", best, "--data.path", "new.csv", "--output", "out.parquet"])
    assert polars.read_parquet("out.parquet")["label"].to_list() == [row["label"] for row in rows]

    predictor = twolayer.load(best)
    everywhere = predictor.predict_proba(new)
    assert_close(everywhere[:, 1].tolist(), [float(row["probability_yes"]) for row in rows])
    assert_close(predictor.predict_proba(polars.DataFrame(new)), everywhere)
    row = {name: column[5] for name, column in new.items()}
    assert_close(predictor.predict_proba(row), everywhere[5:6])
    assert_close(predictor.predict_proba([row, row]), everywhere[[5, 5]])
    # as the module that was trained, on its own inputs
    data = command.datamodule
    assert_close(
        predictor.predict_proba({n: data.frame[n] for n in data.frame.names})[:, 1:],
        command.model(data.tensors[0]).double(),
    )

    write("short.csv", {name: column for name, column in new.items() if name != "town"})
    with pytest.raises(ValueError, match="the table must have the column 'town', got 'since', 'id', 'age'"):
        cli.main(["predict", "--ckpt_path", best, "--data.path", "short.csv"])


def test_a_prediction_takes_pytorch_alone():
    write("my.csv", people())
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=1")
    script = """
import sys, twolayer
model = twolayer.load("runs/my/version_0/checkpoints/best.ckpt")
print(model.predict({"age": 33, "town": "Ulm", "since": "2021-05-01"}))
assert not {"lightning", "sklearn", "polars", "pandas", "numpy"} & set(sys.modules) - {"numpy"}, sys.modules
"""
    path = [str(Path(twolayer.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("['yes']", "['no']")


@pytest.mark.parametrize("members", [1, 3])
def test_regression_and_members_are_averaged_in_raw_units(members, capsys):
    draw = random.Random(1)
    x = [draw.uniform(-3, 3) for _ in range(300)]
    table = {"x": x, "z": [draw.choice("ab") for _ in x], "price": [1000 + 50 * math.sin(v) for v in x]}
    write("houses.tsv", table, "\t")
    fit("--data.path=houses.tsv", "--data.target=price", f"--members={members}", "--trainer.max_epochs=30")
    out = capsys.readouterr().out
    assert "ridge regression" in out
    best = Path("runs/houses/version_0/checkpoints/best.ckpt")
    predictor = twolayer.load(best)
    assert len(predictor.members) == members
    found = torch.tensor(predictor.predict(table))
    assert (found - torch.tensor(table["price"])).square().mean().sqrt() < 12
    alone = [twolayer.tables.predictor.Predictor([member]).predict(table) for member in predictor.members]
    assert_close(found.double(), torch.tensor(alone, dtype=torch.float64).mean(0), check_dtype=False)
    if members > 1:
        assert len({tuple(one) for one in alone}) == members
        others = [f"runs/houses/version_0/member_{k}/checkpoints/best.ckpt" for k in range(1, members)]
        assert all(Path(path).is_file() for path in others)


def test_a_checkpoint_s_encoding_counts_when_a_table_is_tested_anew():
    write("my.csv", people())
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=2")
    table = people(rows=90, seed=5)
    table["town"] = ["Ulm" if town == "Kiel" else town for town in table["town"]]
    write("other.csv", table)
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    best = "runs/my/version_0/checkpoints/best.ckpt"
    with pytest.warns(UserWarning, match="the checkpoint was trained on another split"):
        command = cli.main(["test", *quiet, "--ckpt_path", best, "--data.path=other.csv", "--data.target=label"])
    data = command.datamodule
    rows = {name: [data.frame[name][i] for i in data.splits["test"].tolist()] for name in data.frame.names}
    right = [a == b for a, b in zip(twolayer.load(best).predict(rows), rows["label"], strict=True)]
    assert math.isclose(command.trainer.callback_metrics["test_accuracy"], sum(right) / len(right), abs_tol=1e-6)


# What is learnt of a column.

LEARNT = {
    "numbers with marks": (["$1,200", "$3,400.50", "7 %", "8"], "numeric"),
    "decimal commas": (["3,14", "2,7", "10", ""], "numeric"),
    "postal codes": (["01234", "99999", "01234", "99999"], "category"),
    "booleans": ([True, False, True, None], "category"),
    "dates": (["2024-01-31", "2023-02-28", "", "2020-02-29"], "date"),
    "dates with times": (["1/31/2024 13:45", "02/28/2023 00:00"], "date"),
    "dates with names of months": (["31-Jan-2024", "28-Feb-2023"], "date"),
    "times of day": (["14:30", "9:05 am", "23:59:30", "NA"], "numeric"),
    "ratios": (["16:9", "4:3"] * 5, "category"),
    "numbers in brackets": (["(1,234.50)", "12.00", "$(3)"], "numeric"),
    "constant": ([3, 3, 3], "dropped"),
    "nothing": (["", None, "NA", float("nan")], "dropped"),
    "each another text": ([f"row {i}" for i in range(100)], "dropped"),
    "row numbers": (list(range(100)), "dropped"),
    "10,000 levels": ([f"level {i % 10_000}" for i in range(20_000)], "dropped"),
    "mostly numbers": ([*map(str, range(0, 300, 3)), "oops"], "numeric"),
    "half numbers": (["1", "2", "low", "high"] * 5, "category"),
    "infinite": ([1.0, 2.5, 3.5, 7.5] * 5 + [math.inf], "numeric"),
}


@pytest.mark.parametrize("case", LEARNT)
def test_the_kind_of_a_column(case):
    values, kind = LEARNT[case]
    column = learn("x", values)
    assert column.kind == kind
    if kind == "dropped" or case in ("mostly numbers", "infinite"):
        assert column.note


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["0,844", "2,608", "1,250"], [0.844, 2.608, 1.25]),
        (["0,500", "-0,250", "0,125"], [0.5, -0.25, 0.125]),
        (["1,234", "5,678"], [1234, 5678]),
        (["₹1,23,456", "₹12,34,567.5", "₹999"], [123456, 1234567.5, 999]),
        (["1'234", "5’678’901", "7"], [1234, 5678901, 7]),
        ([np.float32(2.5), np.int64(3), np.float64("nan"), math.nan], [2.5, 3, math.nan, math.nan]),
        (np.array([90, 30], "timedelta64[m]").astype("timedelta64[ns]"), [1.5, 0.5]),
    ],
)
def test_other_spellings_of_numbers(values, numbers):
    column = learn("x", reading.Frame({"x": values})["x"] if isinstance(values, np.ndarray) else values)
    assert column.kind == "numeric"
    assert column.numbers(list(values)) == pytest.approx(numbers, nan_ok=True)


@pytest.mark.parametrize("values", [["5'6", "5'11", "6'0"], ["(01) 23 456", "(02) 34 567"]])
def test_what_is_no_number(values):
    assert learn("x", values * 9).kind == "category"


@pytest.mark.parametrize(
    ("values", "day"),
    [
        (np.array(["2024-01-05", "2024-02-13"], "datetime64[ns]"), 19727),
        (np.array(["2024-01-05", "NaT"], "datetime64[D]"), 19727),
        ([np.datetime64("2024-01-05", "ns"), np.datetime64("2024-02-13", "ns")], 19727),
        (["1/5/2024 6:00 AM", "2/13/2024 11:05 PM"], 19727.25),
        (["Jan 5, 2024", "Feb 13, 2023"], 19727),
        (["5 January 2024", "13 March 2024"], 19727),
        (["1/5/24", "2/13/24"], 19727),
        (["2024-01-05"] + ["2024-02-13"] * 50 + ["unknown"], 19727),
    ],
)
def test_other_spellings_of_dates(values, day):
    column = learn("when", reading.Frame({"when": values})["when"])
    assert column.kind == "date"
    assert ("such as 'unknown', count as missing" in column.note) == (values[-1] == "unknown")
    assert column.numbers(list(values))[0][0] == day
    assert learn("when", ["2024-01-05"] * 8 + ["unknown", "soon"]).kind == "category"


def test_cells_that_are_arrays_are_no_numbers():
    assert "type ndarray" in learn("x", [np.array([1.0, 2.0])] * 5).note


def test_numbers_as_they_are_spelt():
    assert learn("x", ["$1,200", "$3,400.50", "7 %", "8"]).numbers(["$1,200", "7 %", "-1.5e3"]) == [1200, 7, -1500]
    assert learn("x", ["3,14", "2,7", "10"]).numbers(["1.234,5", "3,14"]) == [1234.5, 3.14]
    assert learn("x", ["(1,234.50)", "12.00", "$(3)"]).numbers(["(1,234.50)", "$(3)", "4"]) == [-1234.5, -3, 4]
    times = [time(6, 45), timedelta(days=1, minutes=6), "14:30", "12:15 pm", "12:15AM", "36:00:36", "4.5"]
    assert learn("x", ["14:30", "9:05"]).numbers(times) == [6.75, 24.1, 14.5, 12.25, 0.25, 36.01, 4.5]


@pytest.mark.parametrize(
    ("learnt", "given", "numbers"),
    [
        (["3,14", "2,7"], ["0.25", "1.5", "7"], [0.25, 1.5, 7]),
        (["3,14", "2,7"], ["1.234", "5.678"], [1234, 5678]),
        (["3,14", "2,7"], ["1.234", "0,5"], [1234, 0.5]),
        (["3.14", "2.7"], ["0,25", "1.234,5", "7"], [0.25, 1234.5, 7]),
        (["3.14", "2.7"], ["1,234", "5"], [1234, 5]),
    ],
    ids=str,
)
def test_a_table_to_predict_may_have_the_other_decimal_mark(learnt, given, numbers):
    assert learn("x", learnt).numbers(given) == numbers


def test_true_and_false_may_come_as_numbers():
    column = learn("x", [True, False] * 3)
    assert column.numbers(np.array([1.0, 0.0]).tolist()) == column.numbers(["true", "FALSE"]) == [1.0, 0.0]


def test_the_encoding_against_one_written_anew():
    values = {"x": [1.0, 2.0, None, 10.0, 4.0, 4.0], "c": ["a", "b", "a", None, "b", "a"]}
    encoding = Encoding.learn(list(values), values.__getitem__)
    X = encoding({"x": [3.0, None, 14.0], "c": ["b", "zebra", None]}.__getitem__)
    filled = torch.tensor([1.0, 2.0, 4.0, 10.0, 4.0, 4.0], dtype=torch.float64)  # 4 is the median
    x = torch.tensor([3.0, 4.0, 14.0], dtype=torch.float64)
    z = (x - filled.mean()) / filled.std(correction=0)
    bins = torch.stack([((x - a) / (b - a)).clamp(0, 1) for a, b in ((1, 2), (2, 4), (4, 10))], 1)
    bins = bins / 3**0.5
    missing = torch.tensor([[0.0, 0], [1, 0], [0, 1]])  # of x, of c
    levels = torch.tensor([[0.0, 1], [0, 0], [0, 0]])
    assert_close(X, torch.cat([z[:, None].float(), bins.float(), missing, levels], 1))
    assert_close(Encoding.of_state(encoding.state())(values.__getitem__), encoding(values.__getitem__))
    former = encoding.state()
    for name in ("bin_scale", "low", "high"):  # bins from 0 to 1, and numbers as they stand, wherever
        del former["features"][name]
    former_X = Encoding.of_state(former)({"x": [3.0, None, 1e6], "c": ["b", "zebra", None]}.__getitem__)
    assert_close(former_X[:2, 1:4], X[:2, 1:4] * 3**0.5)
    assert_close(former_X[2, 0], ((1e6 - filled.mean()) / filled.std(correction=0)).float())


def test_far_beyond_the_training_rows_a_number_grows_as_a_logarithm():
    x = [1.0, 2.0, 4.0, 11.0]
    encoding = Encoding.learn(["x"], {"x": x}.__getitem__)
    training = torch.tensor(x, dtype=torch.float64)

    def z(number):
        return (number - training.mean().item()) / training.std(correction=0).item()

    within, low, high = [-3.9, 1.0, 11.0, 15.9], 1 - 5.0, 11 + 5.0  # half of the range from 1 to 11 is allowed
    far = {-1e3: z(low) - math.log1p(z(low) - z(-1e3)), 58.9: z(high) + math.log1p(z(58.9) - z(high))}
    found = encoding({"x": [*within, *far]}.__getitem__)[:, 0]
    assert_close(found, torch.tensor([*map(z, within), *far.values()]).float())
    assert found[-1] < 6 < 13 < z(58.9)


@pytest.mark.parametrize(
    "numbers", [[1e200, -1e200, 1.0], [1.7e308, -1.7e308, 1.0], [1e-320, 2e-320, 3e-320], [5.0, None, 5.0]]
)
def test_numbers_of_any_size_are_finite_inputs(numbers):
    encoding = Encoding.learn(["x"], {"x": numbers}.__getitem__)
    assert encoding({"x": [*numbers, 0.0, 1e300, -1.7e308]}.__getitem__).isfinite().all()


def test_nothing_is_learnt_of_rows_held_out():
    table = people()
    first = Table(table, target="label")
    held_out = {i for part in ("val", "test") for i in first.splits[part].tolist()}
    changed = {name: list(column) for name, column in table.items()}
    for i in held_out:
        changed["age"][i], changed["town"][i] = "1e6", "Atlantis"
    second = Table(changed, target="label")
    assert second.splits["train"].tolist() == first.splits["train"].tolist()
    a, b = first.encoding.state(), second.encoding.state()
    assert a["columns"] == b["columns"]
    assert_close(a["features"], b["features"])
    assert second.tensors[0].isfinite().all()


# Parts.


def test_the_parts_are_disjoint_whole_and_stratified():
    table = Table(people(), target="label")
    parts = {name: rows.tolist() for name, rows in table.splits.items()}
    assert sorted(i for rows in parts.values() for i in rows) == list(range(ROWS))
    shares = [table.targets[rows].float().mean().item() for rows in parts.values()]
    assert max(shares) - min(shares) < 0.03
    member = Table(people(), target="label", member=1)
    assert member.splits["test"].tolist() == parts["test"]
    assert member.splits["val"].tolist() != parts["val"]


def test_small_classes_and_few_groups_leave_rows_to_validate_and_to_test():
    columns = {"x": [float(i) for i in range(100)], "label": [f"class {i % 20}" for i in range(100)]}
    table = Table(columns, target="label")
    assert table.rows_in == {"train": 75, "test": 15, "val": 10}  # of 5 in a class, 0.75 and 0.5
    for part in ("test", "val"):
        assert table.targets[table.splits[part]].bincount().max() == 1
    singles = at_random(
        torch.cat([torch.arange(10), torch.zeros(9).long()]), {"test": 0.3, "val": 0.3}, {"test": 0, "val": 0}
    )
    assert {*range(1, 10)} < set(singles["train"].tolist())  # each the last of its class
    assert len(singles["train"]) == 19 - 6  # 3 and 3 of the ten of one class, and no more to make up for the rest
    for count in (3, 5, 8):
        parts = by_groups([i % count for i in range(120)], {"test": 0.15, "val": 0.1}, {"test": 0, "val": 1})
        assert min(map(len, parts.values())) >= 120 // count
        assert parts["train"].numel() == 120 - 2 * (120 // count)
    sizes = by_groups(["a"] * 80 + ["b"] * 15 + ["c"] * 14 + ["d"] * 11, {"test": 0.1}, {"test": 0})
    assert sizes["test"].tolist() == list(range(109, 120))  # the smallest
    with pytest.raises(ValueError, match="group must have enough groups for each part, got 2: none is left for val"):
        by_groups(["a", "b"] * 9, {"test": 0.15, "val": 0.1}, {"test": 0, "val": 0})


def test_no_group_is_on_both_sides_and_a_split_column_counts():
    groups = [i // 7 for i in range(ROWS)]
    parts = by_groups(groups, {"test": 0.2, "val": 0.2}, {"test": 0, "val": 1})
    sides = [{groups[i] for i in rows.tolist()} for rows in parts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(groups))
    split = ["train", "train", "Validation", "test"] * (ROWS // 4)
    table = Table({**people(), "part": split}, target="label", split="part")
    assert {name: len(rows) for name, rows in table.splits.items()} == {"train": 120, "val": 60, "test": 60}
    assert "part" not in table.encoding.used


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a", "b"] * 9, "binary", ["a", "b"]),
        ([True, False, True] * 9, "binary", ["False", "True"]),
        ([0.0, 1.0, 1.0] * 9, "binary", ["0", "1"]),
        (["10", "9", "2"] * 9, "multiclass", ["2", "9", "10"]),
        ([0.5, 1.0, 2.0] * 9, "regression", []),
        (list(range(27)), "regression", []),
        (["1.234,5", "3,1", "2,0"] * 9, "regression", []),
    ],
)
def test_the_task_is_inferred_and_said(values, task, classes):
    table = Table({"x": [i % 5 + 0.5 for i in range(27)], "y": values}, target="y")
    assert (table.task, table.target.classes) == (task, classes)
    assert any(line.startswith(f"Target y: {task}") for line in table.described())


def test_a_column_that_tells_the_target_alone_is_said():
    table = people()
    table["copy"] = [{"yes": "J", "no": "N"}[label] for label in table["label"]]
    table["score"] = [(label == "yes") + random.random() / 2 for label in table["label"]]
    lines = [line for line in Table(table, target="label").described() if line.startswith("Warning")]
    assert [line.split("'")[1] for line in lines] == ["copy", "score"]


def test_pandas_polars_and_files_are_one_table():
    pandas = pytest.importorskip("pandas")
    table = people()
    whole = Table(table, target="label").tensors[0]
    assert_close(Table(pandas.DataFrame(table), target="label").tensors[0], whole)
    assert_close(Table(polars.DataFrame(table), target="label").tensors[0], whole)


def test_several_files_and_folders_and_parquet_are_one_table():
    table = people()
    whole = Table(write("whole.csv", table), target="label")
    for folder, ending in (("csv", "csv"), ("parquet", "parquet")):
        Path(folder).mkdir()
        for i, rows in enumerate((slice(0, 100), slice(100, ROWS))):
            part = {name: column[rows] for name, column in table.items()}
            if ending == "csv":
                write(f"{folder}/{i}.csv", part)
            else:
                polars.DataFrame(part).write_parquet(f"{folder}/{i}.parquet")
        assert_close(Table(folder, target="label").tensors[0], whole.tensors[0])
    both = ["csv/0.csv", "csv/1.csv"]
    assert_close(Table(both, target="label").tensors[0], whole.tensors[0])


# Tables that are wrong.

GOOD = b"x,y\n" + b"".join(b"%d.5,%s\n" % (i, b"ab"[i % 2 : i % 2 + 1]) for i in range(40))
BAD = {
    "empty file": (b"", "got an empty file"),
    "header only": (b"x,y\n", "must hold rows"),
    "one row": (b"x,y\n1,a\n", "must have two classes or more"),
    "one class": (b"x,y\n" + b"1,a\n2,a\n" * 20, "must have two classes or more, got 'a' alone"),
    "no such target": (b"x,z\n1,a\n2,b\n", "target must name columns of the table, got 'y'"),
    "target all missing": (b"x,y\n" + b"1,\n2,NA\n" * 20, "all 40 are missing"),
    "a column twice": (GOOD.replace(b"x,y", b"y,y"), "a name for each column, got 'y' twice"),
    "two spellings": (GOOD + b"1,A\n", "must spell each class in one way, got 'A' and 'a'"),
    "two spellings of a number": (GOOD.replace(b"a", b"1e3") + b"1,1000.0\n", "in one way, got '1000' and '1e3'"),
    "more digits than float32 has": (
        b"x,y\n" + b"".join(b"%d,%d\n" % (i, 10**9 + i) for i in range(40)),
        "must vary by more than float32 can tell, got values around 1.00000002e.09 with a standard deviation of 11.7",
    ),
    "more than float32 can hold": (b"x,y\n1,1e39\n2,0.5\n3,1.5\n", "must hold numbers of float32, got 1e.39"),
    "10,000 classes": (b"x,y\n" + b"".join(b"1,c%d\n" % i for i in range(10_000)), "got 10000 classes in 10000 rows"),
    "not UTF-8": (GOOD + "1,é\n".encode("latin-1"), "UTF-8"),
    "not UTF-8 in the header": ("é,y\n1,a\n".encode("latin-1"), "UTF-8, got byte 0xe9"),
    "binary": (bytes(range(256)) * 10, "got binary data"),
    "ragged": (GOOD + b"1,a,3,4\n", "cannot be read: .*; line 42 has 4 fields, the header 2"),
    "nothing to learn from": (b"x,y\n" + b"1,a\n1,b\n" * 20, "x: constant"),
    "text target for a regression": (GOOD, "must hold finite numbers for task 'regression', got 'a'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_line(case):
    content, said = BAD[case]
    Path("bad.csv").write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        _ = Table("bad.csv", target="y", task="regression" if "regression" in case else None).tensors
    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_and_other_files_are_one_line():
    polars.DataFrame({"x": [1, 2], "y": ["a", "b"]}).write_parquet("whole.parquet")
    Path("short.parquet").write_bytes(Path("whole.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"path cannot be read: short.parquet") as caught:
        Table("short.parquet", target="y")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"there is no nowhere.csv"):
        Table("nowhere.csv", target="y")
    Path("my.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"path must end with one of .csv"):
        Table("my.xlsx", target="y")


def test_what_is_no_error_is_said_or_the_same():
    table = people()
    whole = Table(table, target="label").tensors
    write("semicolons.csv", table, ";")  # another separator than the ending says
    assert_close(Table("semicolons.csv", target="label").tensors, whole)
    spaces = {**table, "label": [f" {label} " for label in table["label"]]}
    assert_close(Table(spaces, target="label").tensors, whole)
    some = {**table, "label": ["", *table["label"][1:]]}
    assert "1 rows without a target, or of weight 0, are left out" in Table(some, target="label").described()


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("x, c, y\n1,a,b\n", ["x", "c", "y"], "1"),
        ('"x, cm";c;y\n1;a;b\n', ["x, cm", "c", "y"], "1"),
        ('x;y\n"1,5";a\n', ["x", "y"], "1,5"),
        ("a\tb\n1,2\t3\n", ["a", "b"], "1,2"),
        ("a|b\n1|2\n", ["a", "b"], "1"),
        ("only\n1\n", ["only"], "1"),
    ],
)
def test_what_separates_the_columns(text, names, first):
    Path("my.csv").write_text(text)
    frame = reading.read("my.csv")
    assert (frame.names, frame[names[0]]) == (names, [first])


def test_a_folder_of_files_that_are_not_all_read():
    Path("folder").mkdir()
    write("folder/a.csv", {"x": ["1", "2"], "y": ["a", "b"]})
    Path("folder/._a.csv").write_bytes(b"\0")
    Path("folder/notes.md").touch()
    assert len(reading.read("folder")) == 2
    Path("folder/b.csv.gz").touch()
    with pytest.raises(ValueError, match=r"a folder of files as they are, got folder/b.csv.gz: unpack it"):
        reading.read("folder")


def test_files_whose_columns_are_not_alike_are_one_line():
    Path("folder").mkdir()
    for name, zone in (("a", None), ("b", UTC)):
        table = polars.DataFrame({"when": [datetime(2024, 1, 1, tzinfo=zone)], "y": [1]})
        table.write_parquet(f"folder/{name}.parquet")
    with pytest.raises(ValueError, match=r"like columns, but 'when' is Datetime.*None.* and Datetime.*'UTC'"):
        reading.read("folder")


def test_frames_of_other_kinds():
    table = people()
    truth = Table(table, target="label").tensors[0]
    arrow = polars.DataFrame(table).to_arrow()
    assert_close(Table(arrow, target="label").tensors[0], truth)
    with pytest.raises(TypeError, match=r"read already, got a LazyFrame: use collect\(\)"):
        Table(polars.DataFrame(table).lazy(), target="label")
    with pytest.raises(TypeError, match="column 'city' must be a list or an array of values, got 'Rome'"):
        Table({**table, "city": "Rome"}, target="label")
    one, twice = (Table(table, target="label", features=given) for given in ("age", ["age", "age"]))
    assert one.in_features == twice.in_features < len(truth[0])
    assert Table(table, target="label", drop="age").in_features < len(truth[0])


def test_names_with_quotes_and_blank_lines():
    Path("my.csv").write_text('"the ""x""",y\n1,a\n2,\n3,b\n\n\n', newline="")
    frame = reading.read("my.csv")
    assert (frame.names, frame['the "x"'], frame["y"]) == (['the "x"', "y"], ["1", "2", "3"], ["a", None, "b"])
    Path("my.csv").write_text('\nx,y\n\n1,"a\n\nb"\n\n,\n2,c\n', newline="")  # a comma alone is a row of nothing
    frame = reading.read("my.csv")
    assert (frame.names, frame["x"], frame["y"]) == (["x", "y"], ["1", None, "2"], ["a\n\nb", None, "c"])
    Path("my.csv").write_text("x\n1\n\n", newline="")  # a missing value of the one column there is
    assert reading.read("my.csv")["x"] == ["1", None]
    Path("my.csv").write_text("x;y\n", newline="")
    with pytest.raises(ValueError, match="got a table of 2 columns and no rows"):
        reading.read("my.csv")


def test_many_columns_are_said_in_few_lines():
    draw = random.Random(0)
    table = {f"x {i}": [draw.random() for _ in range(30)] for i in range(100)} | {
        "a\nb": [1] * 30,
        "y": ["a", "b"] * 15,
    }
    lines = Table(table, target="y").described()
    (numbers,) = [line for line in lines if "numeric" in line]
    assert numbers.startswith("  x 0, x 1, x 2, 97 more ")
    assert any(line.startswith("  a b ") and "constant" in line for line in lines)


def test_a_class_that_cannot_be_held_out_is_said():
    table = people()
    table["label"][7] = "perhaps"
    said = Table(table, target="label").described()
    assert {"Class 'perhaps' has no row in val", "Class 'perhaps' has no row in test"} <= set(said)


def test_weights_and_a_split_column_on_the_command_line(capsys):
    table = people() | {"weight": [f"{1 + i % 3}" for i in range(ROWS)]}
    table["part"] = ["train", "train", "valid", "Test"] * (ROWS // 4)
    write("my.csv", table)
    fit(
        "--data.path=my.csv",
        "--data.target=label",
        "--data.weight=weight",
        "--data.split=part",
        "--trainer.max_epochs=2",
    )
    assert "On the 60 rows of test, accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "given", "epochs", "decay"),
    [
        (240, [], 100, 0.5),
        (1000, [], 20, 0.5 * 32 / 188),  # 750 are trained on, in 188 batches
        (1000, ["--trainer.max_epochs=1", "--model.optimizer.lr=0.01"], 1, 0.5 * 32 / 188),
        (1000, ["--model.optimizer.weight_decay=0.3"], 20, 0.3),
        (1000, ["--model={optimizer: {class_path: torch.optim.AdamW, init_args: {weight_decay: 0.3}}}"], 20, 0.3),
        (1000, ["--trainer={max_epochs: null, max_steps: 30}"], -1, 0.5 * 32 / 188),
        (1000, ["--model.optimizer=SGD", "--model.optimizer.lr=0.01"], 20, 0),
    ],
)
def test_a_large_table_takes_fewer_epochs_of_less_decay(rows, given, epochs, decay, caplog):
    write("my.csv", people(rows))
    few = [f"--trainer.limit_{name}_batches=2" for name in ("train", "val", "test")]
    size = 8 if rows == 240 else 4
    trainer = fit("--data.path=my.csv", "--data.target=label", f"--data.batch_size={size}", *few, *given).trainer
    assert trainer.max_epochs == epochs
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == pytest.approx(decay)
    why = "since an epoch of the table has 188 batches"
    assert (f"max_epochs: 20, {why} (configured: 100)" in caplog.text) == (epochs == 20)
    assert (f"weight_decay: 0.0851, {why} (configured: 0.5)" in caplog.text) == (0 < decay < 0.1)


@pytest.mark.parametrize(
    ("given", "rate", "decay", "said"),
    [
        ([], 0.003, 0.5, ()),
        (["--model.optimizer=SGD"], 0.003, 0, ("weight_decay: 0,",)),
        (["--model.optimizer.class_path=torch.optim.Adam"], 0.003, 0, ("weight_decay: 0,",)),
        (["--model.optimizer=SGD", "--model.optimizer.weight_decay=0.5"], 0.003, 0.5, ()),
        (["--model.optimizer={class_path: SGD, init_args: {lr: 0.1}}"], 0.1, 0, ("weight_decay: 0,", "max_lr: 0.1,")),
        (["--model={optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.1}}}"], 0.1, 0.5, ("max_lr: 0.1,",)),
        (["--model.optimizer.lr=0.1"], 0.1, 0.5, ("max_lr: 0.1,",)),
        (["--model.optimizer.lr=0.1", "--model.lr_scheduler.max_lr=0.003"], 0.003, 0.5, ()),
        (["--model.optimizer=Rprop"], 0.003, None, ()),
        (["--config=own.yaml"], 0.2, 0, ("weight_decay: 0,", "max_lr: 0.2,")),
        (["--config=decay.yaml"], 0.003, 0.5, ()),
    ],
)
def test_the_schedule_follows_the_optimizer_and_another_one_has_no_decay_of_adamw(given, rate, decay, said, caplog):
    write("my.csv", people())
    Path("own.yaml").write_text("model: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.2}}}")
    Path("decay.yaml").write_text("model: {optimizer: {class_path: torch.optim.SGD, init_args: {weight_decay: 0.5}}}")
    trainer = fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=1", *given).trainer
    (group,) = trainer.optimizers[0].param_groups
    assert group["max_lr"] == rate
    assert group.get("weight_decay") == decay
    assert [name for name in ("weight_decay: 0,", "max_lr: ") if name in caplog.text] == [
        name for name in ("weight_decay: 0,", "max_lr: ") if any(one.startswith(name) for one in said)
    ]


@pytest.mark.parametrize("steps", [19, 20, 21])
def test_a_fit_of_few_steps(steps):
    """Twenty have a warm-up of one step, 5 % of them, by which PyTorch's schedule divides by zero."""
    write("my.csv", people())
    trainer = fit("--data.path=my.csv", "--data.target=label", f"--trainer.max_steps={steps}").trainer
    assert trainer.global_step == steps
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.003


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "decay"),
    [(1000, 32, 100, 1), (8192, 256, 100, 1), (16_384, 256, 50, 1 / 2), (81_920, 256, 20, 1 / 10)],
)
def test_the_length_and_the_decay_of_a_fit_by_its_rows(rows, batch_size, epochs, decay, monkeypatch):
    monkeypatch.setattr(Table, "rows_in", {"train": rows})
    table = Table(people(), target="label", batch_size=batch_size)
    assert (table.epochs, table.weight_decay_factor) == (epochs, decay)


def test_spellings_of_one_class_and_of_one_group():
    rows, x = 90, list(range(90))
    with pytest.raises(ValueError, match="must spell each class in one way"):
        Table({"x": x, "y": ["caf\u00e9", "cafe\u0301", "tea"] * 30}, target="y")
    with pytest.raises(ValueError, match=r"got '\+' alone; '-' counts as missing"):
        Table({"x": x, "y": ["+", "-"] * 45}, target="y")
    groups = [1, 1.0, "1", "1 ", 2, 3, 4, 5, 6] * 10
    parts = Table({"x": x, "y": ["a", "b", "c"] * 30, "g": groups}, target="y", group="g").splits
    (of_one,) = [part for part, found in parts.items() if any(groups[i] == 1 for i in found.tolist())]
    assert all(str(groups[i]).strip(".0 ") != "1" for part in parts if part != of_one for i in parts[part].tolist())
    assert sum(map(len, parts.values())) == rows


def test_numbers_beyond_all_numbers_have_an_answer():
    """1e308 is one; infinities are missing, in tensors too, as ONNX has them."""
    write("my.csv", {"x": [str(i / 100) for i in range(240)], "y": ["a" if i < 120 else "b" for i in range(240)]})
    fit("--data.path=my.csv", "--data.target=y", "--trainer.max_epochs=3")
    predictor = twolayer.load("runs/my/version_0/checkpoints/best.ckpt")
    P = predictor.predict_proba({"x": [1e308, -1e308, math.inf, None, 2.4]})
    assert P.isfinite().all()
    assert P[0, 1] > P[4, 1] > P[1, 1]
    assert torch.equal(P[2], P[3])
    features = predictor.members[0].encoding.features
    assert torch.equal(*features(torch.tensor([[math.inf], [math.nan]], dtype=torch.float64)))


def test_a_predictor_takes_what_fits():
    table = people()
    table = {"names": [str(i % 7) for i in range(ROWS)], **table}
    write("my.csv", table)
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=1")
    predictor = twolayer.load("runs/my/version_0/checkpoints/best.ckpt")
    truth = predictor.predict_proba(table)
    assert torch.equal(predictor.predict_proba(polars.DataFrame(table).to_arrow()), truth)

    class Named:
        """As a DataFrame of pandas that has a column called names, and one called 0, by number."""

        columns = (*table, 0)
        names = table["names"]

        def __getitem__(self, name):
            return table["age"] if name == 0 else table[name]

    assert torch.equal(predictor.predict_proba(Named()), truth)
    with pytest.raises(TypeError, match="column 'age' must be a list or an array of values, got '31'"):
        predictor.predict({**table, "age": "31"})


def test_predict_takes_lists_and_asks_for_its_table(capsys):
    write("my.csv", people())
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=1")
    best = "runs/my/version_0/checkpoints/best.ckpt"
    cli.main(["predict", "--ckpt_path", best, "--data.path=[my.csv, my.csv]", "--data.id=[id,label]"])
    assert f"{2 * ROWS} predictions" in capsys.readouterr().out
    header = Path("runs/my/version_0/predictions.csv").read_text().splitlines()[0]
    assert header.startswith("id,label,")
    with pytest.raises(SystemExit):
        cli.main(["predict", "--ckpt_path", best])
    assert "required: --data.path" in capsys.readouterr().err


def test_the_interval_of_an_error_of_few_rows():
    """Squares of which one is large: a normal interval of their mean would begin below zero."""
    found, Y = torch.zeros(30, 1), torch.tensor([1.0] * 29 + [20.0])[:, None]
    rmse, low, high = interval(found, Y)
    assert rmse == pytest.approx(((29 + 400) / 30) ** 0.5)
    spread = torch.tensor([1.0] * 29 + [400.0]).double().std(correction=0).item()
    assert high - rmse == pytest.approx(1.96 * spread / 30**0.5 / (2 * rmse), rel=1e-3)
    assert 0 < low == pytest.approx(2 * rmse - high)
    assert interval(Y, Y) == (0, 0, 0)


def test_how_a_missing_target_is_spelt_is_said():
    """It may have been meant as a class."""
    table = people()
    table["label"] = ["None", "", *table["label"][2:]]
    (line,) = [line for line in Table(table, target="label").described() if "without a target" in line]
    assert line == "2 rows without a target (a missing one is spelt 'None'), or of weight 0, are left out"


def test_what_a_table_to_predict_says_nothing_by_is_said(capsys):
    table = people()
    write("my.csv", table)
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=1")
    other = {**table, "age": ["old", "7", *table["age"][2:]], "since": ["soon", *table["since"][1:]]}
    write("new.csv", {**other, "town": ["Rom", "Rom", *table["town"][2:]]})
    capsys.readouterr()
    cli.main(["predict", "--ckpt_path=runs/my/version_0/checkpoints/best.ckpt", "--data.path=new.csv"])
    said = capsys.readouterr().out.splitlines()
    assert said[:-1] == [
        "Column 'age': 1 values, such as 'old', are no finite numbers, and count as missing",
        "Column 'town': 2 values, such as 'Rom', are none of its 3 levels",
        "Column 'since': 1 values, such as 'soon', are no dates as in the fit, and count as missing",
    ]
    model = twolayer.load("runs/my/version_0/checkpoints/best.ckpt")
    with pytest.raises(ValueError, match=r"of equal length, got \[1, 2\]"):
        model.predict({"age": [1, 2], "town": ["Ulm"], "since": ["2024-01-01"]})


@pytest.mark.parametrize("options", [{}, {"group": "town"}], ids=str)
def test_members_that_no_test_rows_judge_have_the_same_validation_rows(options):
    table = people() | {"town": [f"town {i % 40}" for i in range(ROWS)]}
    first, other = (Table(table, target="label", test_fraction=0, member=k, **options).splits for k in (0, 1))
    assert len(first["val"])
    assert_close(first, other)
    assert Table(table, target="label", member=1, **options).splits["val"].tolist() != first["val"].tolist()


def test_a_level_that_only_held_out_rows_have_is_no_error(caplog):
    split = ["train"] * 200 + ["val"] * 20 + ["test"] * 20
    table = {**people(), "part": split}
    table["town"][200:220] = ["Atlantis"] * 20
    data = Table(table, target="label", split="part")
    assert data.tensors[0].isfinite().all()
    assert "Atlantis" not in str(data.encoding.state()["columns"])


def test_polars_is_asked_for_in_one_line(monkeypatch):
    write("my.csv", people())
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'twolayer\[table\]'"):
        Table("my.csv", target="label")


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("members", [1, 2])
def test_onnx_answers_row_by_row_from_raw_columns(members):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    numpy = pytest.importorskip("numpy")
    write("my.csv", people())
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=3", f"--members={members}")
    best = "runs/my/version_0/checkpoints/best.ckpt"
    cli.main(["export", "--ckpt_path", best])
    session = onnxruntime.InferenceSession("runs/my/version_0/model.onnx", providers=["CPUExecutionProvider"])
    table = people(rows=60, seed=9)
    table["town"][:3], table["age"][:2] = ["Atlantis", "", "NA"], ["-900", "4000"]  # none like it was trained on
    days = [date.fromisoformat(day) for day in table["since"]]
    given = {
        "age": [float(age) if age else math.nan for age in table["age"]],
        "since.day": [float((day - date(1970, 1, 1)).days) for day in days],
        "since.month": [float(day.month) for day in days],
        "since.weekday": [float(day.weekday()) for day in days],
        "since.hour": [0.0] * len(days),
    }
    columns = {name: numpy.array(values) for name, values in given.items()}
    columns["town"] = numpy.array(table["town"], dtype=object)
    assert {one.name for one in session.get_inputs()} == set(columns)
    (found,) = session.run(None, columns)
    expected = twolayer.load(best).predict_proba(table)
    assert_close(torch.from_numpy(found).double(), expected, rtol=1e-4, atol=1e-5)
    for i in range(5):
        (row,) = session.run(None, {name: values[i : i + 1] for name, values in columns.items()})
        assert_close(torch.from_numpy(row).double(), expected[i : i + 1], rtol=1e-4, atol=1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["classes"] == '["no", "yes"]'


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning", "ignore::DeprecationWarning")
def test_onnx_takes_columns_of_any_name():
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    names = ["cat", "probabilities", "axis_1", "slots_0", "twolayer/slots_0", 'the "x", \n']
    draw = np.random.default_rng(0)
    columns = {name: draw.normal(size=60) for name in names}
    write("my.csv", {name: values.tolist() for name, values in columns.items()} | {"label": ["a", "b", "c"] * 20})
    fit("--data.path=my.csv", "--data.target=label", "--trainer.max_epochs=1")
    best = "runs/my/version_0/checkpoints/best.ckpt"
    cli.main(["export", "--ckpt_path", best])
    session = onnxruntime.InferenceSession("runs/my/version_0/model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name.strip(): values for name, values in columns.items()})
    assert_close(torch.from_numpy(found).double(), twolayer.load(best).predict_proba(columns), rtol=1e-4, atol=1e-5)


def test_the_page_s_service_answers(monkeypatch):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx2")
    from fastapi.testclient import TestClient

    page = Path(__file__).parents[1] / "docs/tables.md"
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "FastAPI" in block]
    assert len(source.splitlines()) <= 20
    write("my.csv", people())
    fit("--data.path=my.csv", "--data.target=label", "--data.drop=[id]", "--trainer.max_epochs=2")
    monkeypatch.setenv("CHECKPOINT", "runs/my/version_0/checkpoints/best.ckpt")
    Path("app.py").write_text(source)
    monkeypatch.syspath_prepend(".")
    import app

    client = TestClient(app.app)
    rows = [{"age": 33, "town": "Ulm", "since": "2021-05-01"}, {"age": None, "town": "Atlantis", "since": None}]
    answer = client.post("/predict", json=rows)
    expected = app.model.predict_proba(rows)
    assert_close(torch.tensor([[row["no"], row["yes"]] for row in answer.json()]).double(), expected, rtol=1e-6, atol=0)
    refused = client.post("/predict", json=[{"age": 33}])
    assert (refused.status_code, "'town'" in refused.text) == (422, True)


def damaged(contents, draw):
    """A checkpoint with a flipped bit, zeroed, or cut off."""
    at = draw.randrange(len(contents) - 1)
    kind = draw.choice(["flipped", "zeroed", "cut off"])
    if kind == "flipped":
        return contents[:at] + bytes([contents[at] ^ 1 << draw.randrange(8)]) + contents[at + 1 :]
    if kind == "cut off":
        return contents[:at]
    zeroed = contents[:at] + bytes(len(contents[at : at + 4096])) + contents[at + 4096 :]
    return zeroed if zeroed != contents else contents[:at]


def test_a_damaged_checkpoint_predicts_nothing(capsys):
    write("my.csv", people())
    fit("--data.path", "my.csv", "--data.target", "label", "--trainer.max_epochs=1")
    whole = Path("runs/my/version_0/checkpoints/best.ckpt").read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        Path("bad.ckpt").write_bytes(damaged(whole, draw))
        with pytest.raises(ValueError, match=r"the checkpoint bad.ckpt is damaged or none: ") as error:
            twolayer.load("bad.ckpt")
        assert "\n" not in str(error.value)
    for command in ("predict", "export"):
        with pytest.raises(ValueError, match=r"the checkpoint bad.ckpt is damaged or none: "):
            cli.main([command, "--ckpt_path", "bad.ckpt", *(["--data.path", "my.csv"] if command == "predict" else [])])
    with pytest.raises(ValueError, match="must be a local file, got the address"):
        twolayer.load("http://example.org/best.ckpt")
    with pytest.raises(FileNotFoundError, match=r"nowhere.ckpt does not exist"):
        twolayer.load("nowhere.ckpt")
    assert not list(Path().rglob("*.part"))
