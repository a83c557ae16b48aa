"""What the callbacks log, against the gradients themselves."""

import pytest

L = pytest.importorskip("lightning")
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers.logger import Logger
from torch.func import functional_call, grad, vmap

from twolayer.callbacks import GradNormQuantiles
from twolayer.loading import TensorLoader
from twolayer.training import LitTwoLayer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec.*deprecated", "ignore:You defined a `validation_step`",
    "ignore:.*overriding `LightningModule.optimizer_",
)  # fmt: skip

QUIET = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Kept(Logger):
    """Keeps what is logged: metrics by step."""

    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_quantiles_of_the_norms_are_logged(task):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 5, generator=generator)
    Y = torch.randn(30, 2, generator=generator) if task == "regression" else (X[:, 0] > 0).long()
    model = LitTwoLayer(
        5, 7, Y.shape[1] if Y.ndim == 2 else 1, task=task, activation="tanh", standardize=False,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
    )  # fmt: skip
    logger = Kept()
    trainer = L.Trainer(
        max_epochs=2, logger=logger, log_every_n_steps=1, callbacks=GradNormQuantiles(4, (0.5, 1.0)), **QUIET
    )
    trainer.fit(model, TensorLoader((X, Y), batch_size=10))

    rows = {step: metrics for step, metrics in logger.rows if "grad_norm_q50" in metrics}
    assert list(rows) == [0, 4]  # three steps an epoch: the first batch of the first, the second of the second

    def loss(parameters, x, y):
        return model.net.cost(functional_call(model.net, parameters, (x[None],)), y[None])

    parameters = {name: V.detach() for name, V in model.net.named_parameters()}
    for batch, metrics in zip((slice(0, 10), slice(10, 20)), rows.values(), strict=True):
        grads = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, X[batch], Y[batch])
        norms = torch.cat([V.flatten(1) for V in grads.values()], 1).norm(dim=1)
        assert metrics["grad_norm_q50"] == pytest.approx(norms.sort().values[4:6].mean().item(), rel=1e-5)
        assert metrics["grad_norm_q100"] == pytest.approx(norms.max().item(), rel=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        GradNormQuantiles(0)
    with pytest.raises(ValueError, match=r"quantiles must be numbers in \[0, 1\], got \(50,\)"):
        GradNormQuantiles(quantiles=(50,))
    trainer = L.Trainer(max_epochs=1, callbacks=GradNormQuantiles(), logger=False, **QUIET)
    with pytest.raises(TypeError, match="must watch a LitTwoLayer, got BoringModel"):
        trainer.fit(BoringModel())
