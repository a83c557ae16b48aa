"""The DataModules: what they hold, how they split it, what a batch looks like."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("lightning")

from sklearn import datasets

from twolayer import data

ALL = [data.Flower, data.Circles, data.Moons, data.Blobs, data.GaussianQuantiles, data.BreastCancer, data.Digits]
ALL += [data.Diabetes]
CLASSES = [cls for cls in ALL if cls.task != "regression"]


def test_flower_is_the_course_s_set_point_by_point():
    # Written out once more, in the order of the draws, with scalars.
    random = np.random.RandomState(1)
    expected = []
    for j in range(2):
        n1 = [random.randn() for _ in range(200)]
        n2 = [random.randn() for _ in range(200)]
        for i in range(200):
            t = 3.12 * j + 3.12 * i / 199 + 0.2 * n1[i]
            r = 4 * np.sin(4 * t) + 0.2 * n2[i]
            expected.append((r * np.sin(t), r * np.cos(t), j))
    X, Y = data.flower()
    assert X.dtype == np.float64
    np.testing.assert_allclose(np.column_stack([X, Y]), expected, rtol=0, atol=1e-12)


def test_drawing_a_set_leaves_the_global_random_state_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    data.flower()
    _ = data.Moons().tensors
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("cls", ALL)
def test_splits_part_the_rows(cls):
    splits = cls().splits
    rows = np.concatenate(list(splits.values()))
    m = len(cls().tensors[0])
    assert sorted(rows) == list(range(m))
    assert len(splits["val"]) == len(splits["test"]) == round(0.15 * m)


@pytest.mark.parametrize("cls", CLASSES)
def test_splits_keep_the_share_of_each_class(cls):
    module = cls()
    Y = module.tensors[1].numpy()
    whole = np.bincount(Y) / len(Y)
    for rows in module.splits.values():
        # Two cuts, each within one example of the exact share.
        assert np.abs(np.bincount(Y[rows], minlength=len(whole)) - whole * len(rows)).max() < 2


def test_the_seed_decides_the_split():
    first, again, other = (data.Digits(seed=seed).splits["train"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("cls", ALL)
def test_batches_have_the_shapes_and_dtypes_that_the_module_states(cls):
    module = cls(batch_size=7)
    X, Y = next(iter(module.train_dataloader()))
    assert X.shape == (7, module.in_features)
    assert X.dtype == torch.float32
    if module.task == "regression":
        assert Y.shape == (7, module.out_features)
        assert Y.dtype == torch.float32
    else:
        assert Y.shape == (7,)
        assert Y.dtype == torch.int64
        assert module.out_features == (1 if module.task == "binary" else len(np.unique(module.tensors[1])))


def test_a_batch_size_of_none_is_the_whole_split():
    loader = data.Flower(batch_size=None, val_fraction=0, test_fraction=0).train_dataloader()
    ((X, _),) = loader
    assert X.shape == (400, 2)


def test_an_epoch_shows_every_training_row_once_uneven_last_batch_included():
    module = data.BreastCancer(batch_size=64)
    batches = list(module.train_dataloader())
    seen = torch.cat([X for X, _ in batches])
    assert len(batches[-1][0]) == len(module.splits["train"]) % 64
    assert torch.equal(seen.sort(0).values, module.train_inputs.sort(0).values)


def test_an_epoch_of_iterations_is_the_whole_split_again_and_again():
    loader = data.Flower(batch_size=None, val_fraction=0, test_fraction=0, iterations_per_epoch=7).train_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches) == 7
    assert all(torch.equal(X, batches[0][0]) for X, _ in batches)


def test_the_seed_decides_the_order_of_each_epoch():
    def epochs(seed):
        loader = data.Moons(seed=seed).train_dataloader()
        return [torch.cat([X for X, _ in loader]) for _ in range(2)]

    (first, second), (again, _) = epochs(1), epochs(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_predict_covers_all_rows_in_their_order():
    module = data.Diabetes()
    X = torch.cat([X for X, _ in module.predict_dataloader()])
    raw, _ = datasets.load_diabetes(return_X_y=True, scaled=False)
    assert torch.equal(X, torch.tensor(raw, dtype=torch.float32))


@pytest.mark.parametrize("size", [8, 5000, None])
def test_what_is_not_learnt_from_comes_in_large_batches(size, monkeypatch):
    monkeypatch.setattr("twolayer.data.tabular.EVALUATED_AT_ONCE", 100)
    module = data.Moons(batch_size=size)
    for loader, rows in ((module.val_dataloader(), module.splits["val"]), (module.predict_dataloader(), None)):
        m = len(module.tensors[0]) if rows is None else len(rows)
        whole, rest = divmod(m, {8: 100, 5000: 5000, None: m}[size])
        assert [len(X) for X, _ in loader] == [(m - rest) // max(whole, 1)] * whole + [rest] * (rest > 0)
    assert len(next(iter(module.train_dataloader()))[0]) == min(size or 10**9, len(module.splits["train"]))


def test_fractions_of_zero_hold_nothing_out():
    module = data.Flower(val_fraction=0, test_fraction=0)
    assert len(module.splits["train"]) == 400
    assert module.val_dataloader() == module.test_dataloader() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": None, "iterations_per_epoch": 0}, "iterations_per_epoch must be at least 1, got 0"),
        (
            {"iterations_per_epoch": 5},
            "iterations_per_epoch must be 1 unless batch_size is None, got 5 with batch_size 64",
        ),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "must leave rows to train on, got 1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.Flower(**arguments)


def test_a_checkpoint_of_another_split_warns():
    saved = data.Moons(seed=3).state_dict()
    data.Moons(seed=3, batch_size=5).load_state_dict(saved)  # the batch size does not matter
    with pytest.warns(UserWarning, match=r"another split.*seed=3 \(here 4\)"):
        data.Moons(seed=4).load_state_dict(saved)
    with pytest.warns(UserWarning, match="checksum"):
        data.Moons(seed=3, noise=0.3).load_state_dict(saved)
