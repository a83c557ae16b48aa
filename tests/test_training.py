"""LitTwoLayer under Lightning's Trainer: steps, metrics, standardisation, checkpoints."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

L = pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from sklearn import metrics as sklearn_metrics

from twolayer import TwoLayerNet, data
from twolayer.training import LitTwoLayer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*smaller than the logging interval",
)


@pytest.fixture
def trainer(tmp_path):
    return partial(
        L.Trainer,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


def model_for(module, **options):
    torch.manual_seed(0)
    return LitTwoLayer(module.in_features, 5, module.out_features, task=module.task, **options)


@pytest.mark.parametrize("cls", [data.BreastCancer, data.Digits, data.Diabetes])
def test_metrics_are_those_that_scikit_learn_computes(trainer, cls):
    module = cls()
    model = model_for(module, init="xavier")
    run = trainer()
    run.fit(model, datamodule=module)
    (found,) = run.test(model, datamodule=module, verbose=False)
    X, Y = (tensor[module.splits["test"]] for tensor in module.tensors)
    with torch.no_grad():
        predicted = model.eval()(X)
    if module.task == "binary":
        hard = (predicted >= 0.5).int()
        expected = {
            "test_accuracy": sklearn_metrics.accuracy_score(Y, hard),
            "test_auroc": sklearn_metrics.roc_auc_score(Y, predicted),
            "test_f1": sklearn_metrics.f1_score(Y, hard),
            "test_loss": sklearn_metrics.log_loss(Y, predicted.double()),
        }
    elif module.task == "multiclass":
        hard = predicted.argmax(-1)
        expected = {
            "test_accuracy": sklearn_metrics.accuracy_score(Y, hard),
            "test_accuracy_macro": sklearn_metrics.balanced_accuracy_score(Y, hard),
            "test_loss": sklearn_metrics.log_loss(Y, predicted.double() / predicted.double().sum(-1, keepdim=True)),
        }
    else:
        error = (predicted - Y).double() / module.train_targets.double().std(correction=0)
        expected = {
            "test_rmse": sklearn_metrics.root_mean_squared_error(Y, predicted),
            "test_r2": sklearn_metrics.r2_score(Y, predicted),
            "test_loss": 0.5 * error.square().mean().item(),
        }
    # The metrics and the mean over batches are float32 sums over up to 270 rows.
    assert found == pytest.approx(expected, rel=1e-4)


def test_inputs_are_standardised_by_the_training_split_alone(trainer):
    module = data.BreastCancer()
    model = model_for(module)
    trainer(max_epochs=1).fit(model, datamodule=module)
    rows = module.tensors[0].double()[module.splits["train"]]
    assert_close(model.standardize_inputs.mean, rows.mean(0).float())
    assert_close(model.standardize_inputs.std, rows.std(0, correction=0).float())


def test_standardize_false_takes_rows_as_they_come(trainer):
    model = model_for(data.Flower(), standardize=False)
    trainer(max_epochs=1).fit(model, datamodule=data.Flower())
    X = torch.tensor([[1.0, 2.0]])
    assert torch.equal(model.standardize_inputs(X), X)


def test_a_checkpoint_loads_with_weights_only_and_predicts_on_raw_rows(trainer, tmp_path):
    module = data.Diabetes()
    model = model_for(module, activation="tanh")
    run = trainer(max_epochs=3)
    run.fit(model, datamodule=module)
    run.save_checkpoint(tmp_path / "model.ckpt")
    hyperparameters = torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]
    assert hyperparameters["activation"] == "tanh"

    loaded = LitTwoLayer.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()
    X = module.tensors[0]
    with torch.no_grad():
        predicted = loaded(X)
        assert torch.equal(predicted, model.eval()(X))
        mean, std = module.train_inputs.mean(0), module.train_inputs.std(0, correction=0)
        by_hand = loaded.net((X - mean) / std) * module.train_targets.std(correction=0) + module.train_targets.mean()
    assert_close(predicted, by_hand, rtol=1e-4, atol=1e-2)  # values from 25 to 346


@pytest.mark.parametrize("cls", [data.Flower, data.Digits, data.Diabetes])
def test_both_backward_modes_train_to_the_same_weights(trainer, cls):
    trained = []
    for backward in ("manual", "autograd"):
        module = cls()
        model = model_for(module, activation="tanh", backward=backward).double()
        L.seed_everything(3, verbose=False)
        trainer(precision="64-true").fit(model, datamodule=module)
        trained.append(model.net.state_dict())
    assert_close(trained[0], trained[1], rtol=1e-9, atol=1e-12)


def test_class_weight_and_label_smoothing_reach_the_cost(trainer):
    module = data.BreastCancer(batch_size=None)
    model = model_for(module, class_weight=[1.0, 3.0], label_smoothing=0.1)
    run = trainer(max_epochs=1)
    run.fit(model, datamodule=module)
    (found,) = run.test(model, datamodule=module, verbose=False)
    X, Y = (tensor[module.splits["test"]] for tensor in module.tensors)
    Z2 = model.net(model.standardize_inputs(X)).squeeze(-1)
    L_each = torch.nn.functional.binary_cross_entropy_with_logits(Z2, 0.9 * Y + 0.05, reduction="none")
    w = 1.0 + 2.0 * Y
    assert found["test_loss"] == pytest.approx(((w * L_each).sum() / w.sum()).item(), rel=1e-5)


def test_optimizer_and_scheduler_are_what_was_asked_for(trainer):
    model = model_for(
        data.Flower(),
        optimizer=partial(torch.optim.SGD, lr=0.5, momentum=0.9),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1),
    )
    run = trainer(max_epochs=2)
    run.fit(model, datamodule=data.Flower())
    (optimizer,) = run.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_reduce_on_plateau_watches_the_validation_loss(trainer):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, factor=0.5)
    model = model_for(data.Flower(), optimizer=partial(torch.optim.SGD, lr=1.0), lr_scheduler=plateau)
    run = trainer(max_epochs=3)
    run.fit(model, datamodule=data.Flower())
    assert run.optimizers[0].param_groups[0]["lr"] < 1.0


@pytest.mark.parametrize(("task", "soft"), [("binary", True), ("multilabel", False), ("multiclass", True)])
def test_a_plain_dataloader_works_soft_labels_too(trainer, task, soft):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 3, generator=generator)
    if task == "binary":
        Y = torch.rand(30, generator=generator)
    elif task == "multilabel":
        Y = torch.randint(2, (30, 4), generator=generator)
    else:
        Y = torch.randn(30, 4, generator=generator).softmax(-1)
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    model = LitTwoLayer(3, 5, 1 if task == "binary" else 4, task=task)
    run = trainer()
    run.fit(model, loader, loader)
    assert run.callback_metrics["val_loss"].isfinite()
    assert torch.cat(run.predict(model, DataLoader(X, batch_size=8))).shape == (30, model.net.out_features)
    assert soft == Y.is_floating_point()


def test_the_net_inside_is_a_two_layer_net():
    model = LitTwoLayer(2, 3, 1, activation="leaky_relu", init="course", backward="autograd")
    assert isinstance(model.net, TwoLayerNet)
    assert (model.net.activation, model.net.init, model.net.backward) == ("leaky_relu", "course", "autograd")


@pytest.mark.cuda
def test_a_run_on_a_gpu(trainer):
    module = data.Digits()
    model = model_for(module)
    run = trainer(accelerator="gpu", devices=1, max_epochs=10, precision="bf16-mixed")
    run.fit(model, datamodule=module)
    (found,) = run.test(model, datamodule=module, verbose=False)
    assert found["test_accuracy"] > 0.9
