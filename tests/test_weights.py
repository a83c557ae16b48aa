"""Weights of rows and of classes: in the cost, the gradients, the validation and the metrics."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

L = pytest.importorskip("lightning")
metrics = pytest.importorskip("sklearn.metrics")

from twolayer.data import Moons, Table
from twolayer.training import LitTwoLayer
from twolayer.training.metrics import metrics_for
from twolayer.training.weighted import WeightedScores

TASKS = {"binary": 1, "multiclass": 3, "regression": 2, "multilabel": 3}


def rows(task, m=41, seed=0):
    draw = torch.Generator().manual_seed(seed)
    n_y = TASKS[task]
    X = torch.randn(m, 4, generator=draw)
    if task == "regression":
        Y = 3 * torch.randn(m, n_y, generator=draw) + 5
    elif task == "multiclass":
        Y = torch.randint(n_y, (m,), generator=draw)
    else:
        Y = torch.randint(2, (m,) if n_y == 1 else (m, n_y), generator=draw)
    return X, Y, torch.randint(1, 5, (m,), generator=draw)


@pytest.mark.parametrize("task", TASKS)
def test_weighted_metrics_are_those_of_rows_so_often(task):
    _, Y, w = rows(task)
    preds = torch.rand(len(Y), TASKS[task], generator=torch.Generator().manual_seed(1)).mul(8).round() / 8  # with ties
    if task == "multiclass":
        preds = preds + torch.tensor([0.01, 0.02, 0.0])
    preds, Y = (preds.squeeze(-1), Y) if task == "binary" else (preds, Y)
    scores, often = WeightedScores(task), metrics_for(task, TASKS[task])
    for part in (slice(0, 13), slice(13, None)):
        scores.update(preds[part], Y[part], w[part].float())
    often.update(preds.repeat_interleave(w, 0), Y.repeat_interleave(w, 0))
    assert_close(scores.compute(), dict(often.compute()), rtol=1e-5, atol=1e-6)


def test_weighted_auroc_as_scikit_learn_has_it():
    _, Y, w = rows("binary")
    preds = torch.rand(len(Y), generator=torch.Generator().manual_seed(2))
    scores = WeightedScores("binary")
    scores.update(preds, Y, w / 3)
    found = {name: value.item() for name, value in scores.compute().items()}
    assert math.isclose(found["auroc"], metrics.roc_auc_score(Y, preds, sample_weight=w), rel_tol=1e-6)
    assert math.isclose(found["f1"], metrics.f1_score(Y, preds > 0.5, sample_weight=w), rel_tol=1e-6)


@pytest.mark.parametrize("backward", ["manual", "streamed", "autograd"])
@pytest.mark.parametrize("task", TASKS)
def test_a_weight_of_three_is_a_row_three_times(task, backward):
    X, Y, w = rows(task)
    weighted = (X, Y, w.float())
    often = (X.repeat_interleave(w, 0), Y.repeat_interleave(w, 0))
    torch.manual_seed(0)
    model = LitTwoLayer(4, 7, TASKS[task], task=task, activation="tanh", backward=backward).double()
    weighted, often = (tuple(V.double() if V.is_floating_point() else V for V in batch) for batch in (weighted, often))

    def by_graph(batch):
        model.zero_grad()
        J = model.batch_loss(batch)
        J.backward()
        return J.detach(), {name: V.grad.clone() for name, V in model.net.named_parameters()}

    def by_block(batch):
        return model.batch_gradients()(batch), {name: V.grad.clone() for name, V in model.net.named_parameters()}

    assert_close(by_graph(weighted), by_graph(often))
    assert_close(by_block(weighted), by_block(often))
    assert not torch.allclose(by_graph(weighted)[1]["W1"], by_graph(weighted[:2])[1]["W1"])


def table(seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(200, generator=draw)
    label = ["yes" if value > 0.8 else "no" for value in (x + 0.2 * torch.randn(200, generator=draw)).tolist()]
    weight = torch.randint(0, 4, (200,), generator=draw).tolist()
    return {"x": x.tolist(), "w": weight, "label": label}


def fit(model, data, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(**{"max_epochs": 3, "accelerator": "cpu", **quiet, **options})
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_weight_column_counts_from_the_gradients_to_the_metrics(class_weight):
    data = Table(table(), target="label", weight="w", batch_size=11)
    assert len(data.rows) == sum(w > 0 for w in table()["w"])
    assert "w" not in data.encoding.used
    models = {}
    for steps_per_call in (4, None):
        torch.manual_seed(0)
        models[steps_per_call] = LitTwoLayer(
            data.in_features, 5, 1, class_weight=class_weight, steps_per_call=steps_per_call, train_metrics=True
        )
        trainer = fit(models[steps_per_call], data)
    assert_close(dict(models[4].net.state_dict()), dict(models[None].net.state_dict()))
    X, Y, w = (part[data.splits["val"]] for part in data.tensors)
    model = models[None]
    P = model(X).detach()
    cw = model.net.class_weight if class_weight else torch.ones(2)
    weights = (w * cw[Y]).double()
    costs = torch.nn.functional.binary_cross_entropy(P.squeeze(1), Y.float(), reduction="none").double()
    found = trainer.callback_metrics
    assert_close(found["val_loss"].double(), (weights * costs).sum() / weights.sum(), rtol=1e-5, atol=0)
    right = ((P.squeeze(1) >= 0.5) == Y).numpy()
    assert math.isclose(found["val_accuracy"], np.average(right, weights=w), rel_tol=1e-6)
    assert found["val_accuracy"] != right.mean()


def test_class_weights_by_name_and_balanced():
    data = Table(table(), target="label")
    balanced, named = (LitTwoLayer(data.in_features, 3, 1, class_weight=given) for given in ("balanced", {"yes": 7.0}))
    for model in (balanced, named):
        fit(model, data, max_epochs=1)
    counts = data.train_targets.bincount()
    assert_close(balanced.net.class_weight, len(data.train_targets) / (2 * counts))
    assert named.net.class_weight.tolist() == [1, 7]
    moons = Moons()
    model = LitTwoLayer(2, 3, 1, class_weight={"1": 2.0})
    fit(model, moons, max_epochs=1)
    assert model.net.class_weight.tolist() == [1, 2]


@pytest.mark.parametrize("given", ["balanced", {"1": 2.0}])
def test_a_checkpoint_with_weights_by_class_is_loaded(given, tmp_path):
    X, Y, _ = rows("binary")
    model = LitTwoLayer(2, 3, 1, class_weight=given)
    trainer = fit(model, Moons(n_samples=60))
    model.net.class_weight.copy_(torch.tensor([0.5, 3.0]))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = LitTwoLayer.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.net.class_weight.tolist() == [0.5, 3.0]
    assert_close(loaded.net.loss(X[:, :2], Y), model.net.loss(X[:, :2], Y))


@pytest.mark.parametrize(
    ("given", "said"),
    [("even", "must be 'balanced'"), ({"maybe": 2.0}, "must name classes, no, yes, got 'maybe'")],
)
def test_class_weights_that_fit_no_class_are_one_line(given, said):
    data = Table(table(), target="label")
    with pytest.raises(ValueError, match=said):
        fit(LitTwoLayer(data.in_features, 3, 1, class_weight=given), data)


@pytest.mark.parametrize("bad", [-1, float("nan"), "heavy", float("inf")])
def test_a_weight_that_is_none_is_one_line(bad):
    rows = table()
    rows["w"][3] = bad
    with pytest.raises(ValueError, match="weight 'w' must hold finite numbers from 0, got"):
        Table(rows, target="label", weight="w")
