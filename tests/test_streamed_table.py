"""Parquet files that are streamed: every row once, wherever an epoch is cut, and the same training."""

import csv
import itertools
import pathlib
import re

import numpy as np
import pytest
import torch
from torch import multiprocessing

pytest.importorskip("lightning")
pytest.importorskip("sklearn")
polars = pytest.importorskip("polars")
parquet = pytest.importorskip("pyarrow.parquet")

import lightning as L

import twolayer
from twolayer import cli
from twolayer.data import StreamedTable, Table
from twolayer.data.stream import StreamLoader
from twolayer.training import LitTwoLayer


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def frame(rows, first=0, seed=0):
    draw = np.random.default_rng(seed)
    size, colour = draw.normal(size=rows), draw.choice(["red", "blue", "green"], rows)
    label = np.where((size > 0) ^ (colour == "red"), "yes", "no").astype(object)
    label[draw.random(rows) < 0.05] = None
    return {
        "row": np.arange(first, first + rows).astype(float) + 0.5,  # no whole numbers: no identifier
        "size": size,
        "colour": colour,
        "shop": draw.integers(0, 40, rows),
        "label": label.tolist(),
        "weight": draw.choice([0.0, 1.0, 2.5], rows),
    }


def folder(sizes=(700, 1, 333), groups=150, name="rows"):
    """Files with row groups of odd sizes."""
    path = pathlib.Path(name)
    path.mkdir()
    first = 0
    for i, rows in enumerate(sizes):
        table = polars.DataFrame(frame(rows, first, seed=i), strict=False)
        parquet.write_table(table.to_arrow(), path / f"{i}.parquet", row_group_size=groups)
        first += rows
    return str(path)


def rows_of(loader_or_batches, data):
    """The column ``row`` of each, which is numeric and the first."""
    return [raw(X, data).tolist() for X, *_ in loader_or_batches]


def raw(X, data):
    features = data.encoding.features
    return (X[:, 0].double() * features.std[0] + features.mean[0]).round(decimals=1)


def everything(path):
    """The rows that count, from the files themselves."""
    table = polars.read_parquet(path)
    return sorted(table.filter(polars.col("label").is_not_null())["row"].to_list())


def loaders(data):
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


@pytest.mark.parametrize("options", [{}, {"group": "shop"}, {"seed": 5, "member": 2, "val_fraction": 0.4}], ids=str)
def test_every_row_is_in_one_part(options):
    path = folder()
    data = StreamedTable(path, "label", features=["row", "size", "colour"], batch_size=32, buffer_rows=100, **options)
    parts = [list(itertools.chain(*rows_of(loader, data))) for loader in loaders(data)]
    assert sorted(itertools.chain(*parts)) == everything(path)
    assert [len(part) for part in parts] == list(data.rows_in.values())
    if "group" in options:
        shop = dict(polars.read_parquet(path).select("row", "shop").iter_rows())
        shops = [{shop[row] for row in part} for part in parts]
        assert all(shops)
        assert not any(one & other for one, other in itertools.combinations(shops, 2))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 5000])
@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_every_row_once_whatever_the_number_of_processes(shares, batch_size, monkeypatch):
    data = StreamedTable(
        folder(), "label", features=["row"], batch_size=batch_size, buffer_rows=90, val_fraction=0, test_fraction=0
    )
    seen, steps = [], set()
    for share in range(shares):
        monkeypatch.setattr("twolayer.data.stream._processes", lambda share=share: (share, shares))
        batches = rows_of(data.train_dataloader(), data)
        seen += itertools.chain(*batches)
        steps.add(len(batches))
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        assert max(map(len, batches)) <= batch_size
        assert len(batches) == len(data.train_dataloader())
    assert len(steps) == 1  # or a distributed run would wait for ever
    assert sorted(seen) == everything("rows")


def _rank(rank, world, port, path, out):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    data = StreamedTable(
        path, "label", features=["row"], batch_size=16, buffer_rows=64, val_fraction=0, test_fraction=0
    )
    torch.save(list(itertools.chain(*rows_of(data.train_dataloader(), data))), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_every_row_once_in_processes_of_their_own(world, tmp_path):
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    path = str((tmp_path / folder()).resolve())
    multiprocessing.spawn(_rank, (world, port, path, str(tmp_path)), nprocs=world)
    seen = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    assert all(seen)
    assert sorted(itertools.chain(*seen)) == everything(path)


def test_workers_change_nothing():
    data = StreamedTable(folder(), "label", features=["row"], batch_size=16, buffer_rows=64)
    stream = data.train_dataloader().stream
    alone = StreamLoader(stream)
    together = StreamLoader(stream, num_workers=2)
    for _ in range(2):
        assert rows_of(alone, data) == rows_of(together, data)


def test_each_epoch_has_an_order_of_its_own_that_follows_from_the_seed():
    path = folder()
    data, again, other = (StreamedTable(path, "label", features=["row"], batch_size=16, seed=s) for s in (3, 3, 4))
    first, second = rows_of(data.train_dataloader(), data), rows_of(again.train_dataloader(), again)
    assert first == second != rows_of(other.train_dataloader(), other)
    loader = data.train_dataloader()
    epochs = [list(itertools.chain(*rows_of(loader, data))) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])
    # Neighbours in the files are far from each other: a Spearman correlation that is not different from none.
    ranks = np.argsort(np.argsort(epochs[0]))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 4 / np.sqrt(len(ranks))


@pytest.mark.parametrize("buffer_rows", [1, 50, 10_000])
def test_an_epoch_goes_on_where_it_was_left(buffer_rows):
    data = StreamedTable(folder(), "label", features=["row"], batch_size=16, buffer_rows=buffer_rows)
    whole = data.train_dataloader()
    batches = [rows_of(whole, data) for _ in range(3)]
    for taken in (0, 1, 5, len(whole) - 1, len(whole)):
        loader = data.train_dataloader()
        list(loader)
        for _ in itertools.islice(loader, taken):
            pass
        resumed = data.train_dataloader()
        resumed.load_state_dict(loader.state_dict())
        if taken == len(whole):
            assert rows_of(resumed, data) == batches[2]
        else:
            assert rows_of(resumed, data) == batches[1][taken:]
            assert rows_of(resumed, data) == batches[2]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("part", [0, 1])
def test_an_epoch_that_is_broken_off_is_not_gone_on_with_unless_it_is_resumed(part, num_workers):
    path = folder()
    data = StreamedTable(path, "label", features=["row"], batch_size=16, buffer_rows=50, num_workers=num_workers)
    loader = loaders(data)[part]
    for taken in (1, 2, len(loader)):
        assert len(list(itertools.islice(loader, taken))) == taken
        assert sum(len(batch[0]) for batch in loader) == list(data.rows_in.values())[part]


def test_the_first_validation_is_on_all_rows_though_lightning_looked_at_some_before():
    path = folder()
    rows = []

    class Counts(LitTwoLayer):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                rows.append(len(batch[0]))
            super().validation_step(batch, batch_idx)

    data = StreamedTable(path, "label", features=["size", "colour"], batch_size=32)
    model = Counts(data.in_features, 3, data.out_features, task=data.task)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, data)
    assert sum(rows) == data.rows_in["val"]


def test_another_epoch_is_not_gone_on_with():
    path = folder()
    loader = StreamedTable(path, "label", batch_size=16).train_dataloader()
    next(iter(loader))
    other = StreamedTable(path, "label", batch_size=8).train_dataloader()
    with pytest.raises(ValueError, match=r"batch_size must be 16, .* got 8"):
        other.load_state_dict(loader.state_dict())


def test_the_buffer_and_a_row_group_are_all_that_is_held(monkeypatch):
    data = StreamedTable(folder((3000,), groups=100), "label", features=["row"], batch_size=10, buffer_rows=200)
    read = []
    groups = type(data.groups)
    original = groups.read
    monkeypatch.setattr(groups, "read", lambda self, k, columns=None: read.append(k) or original(self, k, columns))
    loader = iter(data.train_dataloader())
    next(loader)
    assert len(read) <= 1 + 200 // (100 * 0.5)  # at least half of the rows of each are trained on
    list(loader)
    assert sorted(read) == sorted(set(read)) == list(range(30))  # and each is read once


def test_a_class_that_stands_in_the_last_file_alone_is_known_and_weighed():
    path = folder((3000, 40))
    table = polars.DataFrame(frame(60, 9000, seed=9), strict=False).with_columns(polars.lit("rare").alias("label"))
    parquet.write_table(table.to_arrow(), f"{path}/9.parquet")
    data = StreamedTable(path, "label", val_fraction=0.2, test_fraction=0)
    assert data.class_names == ["no", "rare", "yes"]
    Y = torch.cat([Y for _, Y in data.train_dataloader()])
    assert data.train_targets.tolist() == [Y.bincount(minlength=3).tolist()]


def test_inputs_targets_and_weights_are_those_of_a_table_in_memory():
    path = folder()
    data = StreamedTable(path, "label", weight="weight", batch_size=50, val_fraction=0, test_fraction=0, drop=["shop"])
    whole = Table(path, "label", weight="weight", drop=["shop"], val_fraction=0, test_fraction=0)
    whole._encoding = data.encoding
    parts = [torch.cat(tensors) for tensors in zip(*data.train_dataloader(), strict=True)]
    order = parts[0][:, 0].argsort()
    other = whole.tensors[0][:, 0].argsort()
    for found, expected in zip(parts, whole.tensors, strict=True):
        torch.testing.assert_close(found[order], expected[other], rtol=0, atol=0)
    assert parts[2].unique().tolist() == [1.0, 2.5]


def fit(path, *more):
    return cli.main(
        [
            *("fit", "--data=StreamedTable", f"--data.path={path}", "--data.target=label", "--data.batch_size=32"),
            *("--data.features=[size,colour]", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"),
            *("--trainer.enable_model_summary=false", *more),
        ]
    )


def test_the_command_line_from_fit_to_predictions(capsys):
    path = folder((900, 500))
    fit(path, "--trainer.max_epochs=30")
    said = capsys.readouterr().out
    accuracy = float(re.search(r"network +(0\.\d+|1) ", said)[1])
    assert accuracy > 0.9
    line = re.search(r"predict --ckpt_path (\S+)", said)[1]
    cli.main(["predict", "--ckpt_path", line, "--data.path", path, "--output", "out.csv"])
    with open("out.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 1401
    assert twolayer.load(line).predict({"size": 1.0, "colour": "blue"}) == ["yes"]


def test_the_length_and_the_decay_of_a_fit_by_its_rows():
    path = folder((900, 500))
    few, many = (StreamedTable(path, "label", batch_size=size) for size in (1024, 4))
    assert (few.epochs, few.weight_decay_factor) == (100, 1)
    assert many.epochs == pytest.approx(20_000 / many.batches, abs=1)
    assert many.weight_decay_factor == 32 / many.batches


def test_a_run_that_is_resumed_within_an_epoch_ends_with_the_same_weights():
    path = folder()
    options = ("--data.buffer_rows=100", "--model.lr_scheduler=null", "--trainer.val_check_interval=10")
    whole = fit(path, "--trainer.max_steps=50", *options)
    fit(path, "--trainer.max_steps=33", *options)
    last = "runs/rows/version_1/checkpoints/last.ckpt"
    resumed = fit(path, "--trainer.max_steps=50", "--ckpt_path", last, *options)
    for (name, V), W in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(V, W), name


@pytest.mark.filterwarnings("ignore:.ModelCheckpoint.monitor='val_loss'.. could not find:UserWarning")
def test_a_run_that_is_resumed_between_epochs_that_are_cut_short_ends_with_the_same_weights():
    """What the trainer leaves of an epoch is not what comes next."""
    path = folder()
    options = ("--data.buffer_rows=100", "--model.lr_scheduler=null", "--trainer.limit_train_batches=5")
    whole = fit(path, "--trainer.max_steps=20", *options)
    fit(path, "--trainer.max_steps=10", *options)
    last = "runs/rows/version_1/checkpoints/last.ckpt"
    resumed = fit(path, "--trainer.max_steps=20", "--ckpt_path", last, *options)
    for (name, V), W in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(V, W), name


def test_the_area_under_the_curve_in_constant_memory_is_that_of_all_rows():
    from sklearn.metrics import roc_auc_score

    from twolayer.training.metrics import Evaluation

    torch.manual_seed(0)
    Y = torch.randint(2, (10_001,))
    p = (torch.randn(10_001) + Y).mul(3).sigmoid()
    evaluation = Evaluation("val_", "binary", 1)
    evaluation.in_constant_memory()
    for some, labels in zip(p.split(100), Y.split(100), strict=True):
        evaluation.update(some[:, None], labels)
    # Pairs of rows whose logits lie within a bin count half in place of 0 or 1: of 0.0006 in a spread of some 10.
    assert abs(evaluation.compute()["val_auroc"] - roc_auc_score(Y, p)) < 1e-4
    assert all(V.numel() < 140_000 for V in evaluation._metrics["auroc"].metric_state.values())
    evaluation.update(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 1]))
    assert evaluation.compute()["val_auroc"].isnan()


def _file(content, name="bad.parquet"):
    with open(name, "wb") as file:
        file.write(content)
    return name


def _cut_off():
    whole = folder()
    with open(f"{whole}/0.parquet", "rb") as file:
        return _file(file.read()[:-100])


BAD = {
    "a CSV file": (lambda: _file(b"a,label\n1,2\n", "bad.csv"), {}, "must be Parquet files .*bad.csv"),
    "no file": (lambda: "nowhere", {}, "there is no nowhere"),
    "no Parquet": (lambda: _file(b"hello"), {}, "cannot be read: bad.parquet"),
    "cut off": (_cut_off, {}, "cannot be read: bad.parquet"),
    "target": (folder, {"target": "lable"}, "target must name columns of the table, got 'lable'; it has 'row'"),
    "group": (folder, {"group": "shops"}, "group must name columns"),
    "features": (folder, {"features": ["sise"]}, "features must name columns"),
    "id": (folder, {"id": "nr"}, "id must name columns"),
    "split": (folder, {"split": "colour"}, "split 'colour' must hold train, val and test, got"),
    "both": (folder, {"split": "colour", "group": "shop"}, "split and group must not both be given"),
    "weight": (folder, {"weight": "size"}, "weight 'size' must hold finite numbers from 0, got"),
    "batch": (folder, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    "buffer": (folder, {"buffer_rows": -1}, "buffer_rows must be at least 1, got -1"),
    "workers": (folder, {"num_workers": -1}, "num_workers must be"),
    "fractions": (folder, {"val_fraction": 0.5, "test_fraction": 0.5}, "must leave rows to train on"),
    "fraction": (folder, {"val_fraction": -0.5}, r"val_fraction must be in \[0, 1\)"),
    "task": (folder, {"task": "regression"}, "target 'label' must hold finite numbers"),
    "task name": (folder, {"task": "regresion"}, "task must be one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    path, options, words = BAD[case]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words) as error:
        StreamedTable(path(), **{"target": "label", **options})
    assert "\n" not in str(error.value)
