"""A block of optimizer steps in one call of the CPU kernel: as torch.optim in float64, and as Lightning's own steps."""

import math
from functools import partial

import pytest
import torch
from problems import PARAMETERS, TRUE_LOSSES, problem, relative_error
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
)

L = pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from lightning.pytorch.callbacks import ModelCheckpoint

from twolayer import data
from twolayer.activations import ACTIVATIONS
from twolayer.equations import Parameters
from twolayer.kernels import cpu, cpu_steps
from twolayer.kernels.cpu_steps import Standard, Steps
from twolayer.kernels.library import load
from twolayer.loading import TensorLoader
from twolayer.tasks import TASKS, Examples, Objective
from twolayer.training import LitTwoLayer, kernel_problem, kernel_steps

pytestmark = [
    pytest.mark.skipif(isinstance(load(), str), reason=f"needs the CPU kernel: {load()}"),
    pytest.mark.filterwarnings(
        "ignore:Be aware that when using `ckpt_path`",
        "ignore:You defined a `validation_step` but have no `val_dataloader`",
    ),
]

OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.1),
    "weight decay": partial(SGD, lr=0.1, weight_decay=0.1),
    "momentum": partial(SGD, lr=0.1, momentum=0.9),
    "dampening": partial(SGD, lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.02),
    "Nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
    "Adam": partial(Adam, lr=0.01),
    "Adam, coupled": partial(Adam, lr=0.02, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    "Adam, decoupled": partial(Adam, lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
    "AMSGrad": partial(Adam, lr=0.02, betas=(0.5, 0.6), amsgrad=True),
    "AdamW": partial(AdamW, lr=0.02, weight_decay=0.3),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)

# The kernel, against torch.optim in float64.


def assert_steps_alike(p, make, *, most_norm=math.inf, weighted=False, sizes=(9, 20, 1, 33, 20, 20)):
    """Ten steps on uneven batches of rows, the first by PyTorch: parameters, state, costs, and the last gradients."""
    generator = torch.Generator().manual_seed(0)
    m, n_x = p.X.shape
    batches = [torch.randperm(m, generator=generator)[:size] for size in sizes]
    mean, std = torch.randn(n_x, generator=generator), torch.rand(n_x, generator=generator) + 0.5
    X = (p.X.double() - mean.double()) / std.double()
    targets, Y = (), p.Y
    if p.task == "regression":
        n_y = p.Y.shape[1]
        targets = torch.randn(n_y, generator=generator), torch.rand(n_y, generator=generator) + 0.5
        Y = (Y - targets[0].double()) / targets[1].double()
    w = torch.rand(m, generator=generator) + 0.1 if weighted else torch.ones(m)

    layers = p.sequential()
    true = make(layers.parameters())
    net = p.net(backward="manual").float()
    optimizer = make(net.parameters(), fused=True)
    true_costs = []
    for i, rows in enumerate(batches):
        true.zero_grad()
        losses = TRUE_LOSSES[p.task](layers(X[rows]), Y[rows])
        J = (w[rows].double() * losses).sum() / w[rows].double().sum()
        J.backward()
        torch.nn.utils.clip_grad_norm_(layers.parameters(), most_norm)
        true_costs.append(J.detach())
        if i == 0:
            for V, of_truth in zip(net.parameters(), layers.parameters(), strict=True):
                V.grad = of_truth.grad.float()
            optimizer.step()
        true.step()

    parameters = Parameters(net.W1, net.b1, net.W2, net.b2)
    changes = kernel_steps.updates(optimizer, parameters)
    assert not isinstance(changes, str), changes
    Y = p.Y.float() if p.Y.is_floating_point() else p.Y
    examples = Examples(p.X.float(), Y, w if weighted else None)
    steps = Steps(changes, batches[1:], standard=Standard(mean, std, *targets), most_norm=most_norm)
    versions = [V._version for V in (*parameters, *(V for change in changes for V in change.state))]
    costs, grads = cpu_steps.take(examples, parameters, Objective(p.activation, p.task), steps)
    now = [V._version for V in (*parameters, *(V for change in changes for V in change.state))]
    assert all(after > before for before, after in zip(versions, now, strict=True))

    allowed = 2e-5  # some steps, each of some roundings of 6e-8 in sums of some ten terms
    assert relative_error(costs, torch.stack(true_costs[1:])) < allowed
    for name, V, dV, of_truth in zip(PARAMETERS, parameters, grads, layers.parameters(), strict=True):
        assert relative_error(V, of_truth) < allowed, name
        assert relative_error(dV, of_truth.grad) < 100 * allowed, name  # where the cost is flat, sums cancel
        state, of_true = optimizer.state[V], true.state[of_truth]
        assert state.keys() == of_true.keys()
        for key, value in state.items():
            if value is not None:
                assert relative_error(value, of_true[key]) < 100 * allowed, (name, key)


@each_optimizer
def test_an_optimizer_steps_as_it_does_in_float64(optimizer):
    assert_steps_alike(problem("tanh", "multiclass", m=53, n_x=5, n_h=7), OPTIMIZERS[optimizer])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tasks_and_activations(activation, task, weighted):
    assert_steps_alike(problem(activation, task, m=53, n_x=5, n_h=7), OPTIMIZERS["momentum"], weighted=weighted)


@pytest.mark.parametrize("sizes", [(3, 53), (1, 1), (53, 5, 53)])
@pytest.mark.parametrize(("n_x", "n_h"), [(1, 1), (2, 4), (31, 33), (256, 70), (131, 259), (5, 1031)])
def test_sizes(n_x, n_h, sizes):
    p = problem("tanh", "binary", m=53, n_x=n_x, n_h=n_h, margin=0.0)
    assert_steps_alike(p, OPTIMIZERS["momentum"], sizes=sizes)


@pytest.mark.parametrize("most_norm", [1e-3, 0.3, 1e3])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_clipping(optimizer, most_norm):
    p = problem("tanh", "regression", m=53, n_x=5, n_h=7)
    assert_steps_alike(p, OPTIMIZERS[optimizer], most_norm=most_norm)


def test_groups_of_parameters_have_options_of_their_own():
    def make(parameters, **options):
        W1, b1, W2, b2 = parameters
        groups = [{"params": [b2, b1], "weight_decay": 0.0}, {"params": [W1], "lr": 0.03}, {"params": [W2]}]
        return AdamW(groups, lr=0.01, weight_decay=0.5, **options)

    assert_steps_alike(problem("tanh", "binary", m=53, n_x=5, n_h=7), make)


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_of_any_size_give_the_same_bits(monkeypatch, threads):
    """A batch is shared out among threads by its own size alone, and nothing is left of the one before."""
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 20_000)
    torch.manual_seed(0)
    X, Y = torch.randn(20_000, 9), torch.randint(2, (20_000,))
    everything = torch.arange(20_000)  # more than are summed in float32
    batches = [*torch.randperm(2800).split(700), everything, torch.arange(5), everything]
    ends = []
    for split in ([7], [3, 4], [1] * 7):
        torch.manual_seed(1)
        parameters = Parameters(*(torch.nn.Parameter(torch.randn(shape)) for shape in ((40, 9), 40, (1, 40), 1)))
        optimizer = Adam(parameters, lr=0.01, fused=True)
        for V in parameters:
            V.grad = torch.ones_like(V)
        optimizer.step()
        changes, left = kernel_steps.updates(optimizer, parameters), iter(batches)
        torch.set_num_threads(threads)
        try:
            for count in split:
                steps = Steps(changes, [next(left) for _ in range(count)])
                costs, _ = cpu_steps.take(Examples(X, Y), parameters, Objective("tanh", "binary"), steps)
                assert len(costs) == count
        finally:
            torch.set_num_threads(1)
        ends.append(parameters)
    for V, W, T in zip(*ends, strict=True):
        assert torch.equal(V, W)
        assert torch.equal(V, T)


@pytest.mark.parametrize("wrong", [-1, 50, 2**62])
def test_a_row_that_there_is_not_ends_the_steps_before_it(wrong):
    net = LitTwoLayer(3, 4, 1).net
    parameters = Parameters(*net.parameters())
    examples = Examples(torch.randn(50, 3), torch.ones(50))
    batches = [torch.tensor([0, 1]), torch.tensor([2, 49]), torch.tensor([3, wrong])]
    steps = Steps([cpu_steps.Update(cpu_steps.SGD, 0.1)] * 4, batches)
    costs, _ = cpu_steps.take(examples, parameters, Objective("relu", "binary"), steps)
    assert len(costs) == 2


# Training with Lightning.

SETS = {"binary": data.Moons, "multiclass": data.Blobs, "regression": data.Diabetes}


def module_of(task="binary", **options):
    return SETS[task](**{"batch_size": 13, "val_fraction": 0, "test_fraction": 0, **options})


@pytest.fixture
def fit(tmp_path):
    """Trains for 300 steps or as told. ``steps_per_call`` is None for Lightning's own steps."""

    def fit(steps_per_call=16, module=None, model=LitTwoLayer, loader=None, ckpt_path=None, of_model=None, **options):
        module = module or module_of()
        torch.manual_seed(0)
        settings = {"task": module.task, "activation": "tanh", "steps_per_call": steps_per_call, **(of_model or {})}
        lightning_module = model(module.in_features, 5, module.out_features, **settings)
        defaults = {
            **{"accelerator": "cpu", "max_epochs": -1, "max_steps": 300, "logger": False, "default_root_dir": tmp_path},
            **{"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
        }
        trainer = L.Trainer(**defaults | options)
        trainer.fit(lightning_module, loader, datamodule=None if loader else module, ckpt_path=ckpt_path)
        return trainer

    return fit


@pytest.fixture
def one_by_one(fit, monkeypatch):
    """The same in blocks whose steps go one by one."""

    def one_by_one(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(kernel_steps, "why_not", lambda *_: "it was told not to")
            trainer = fit(*args, **options)
        assert trainer.lightning_module.why_no_kernel == "it was told not to"
        return trainer

    return one_by_one


@pytest.fixture
def counted(monkeypatch):
    """How many steps the kernel took in each call."""
    calls = []
    original = cpu_steps.take

    def take(*args):
        costs, grads = original(*args)
        calls.append(len(costs))
        return costs, grads

    monkeypatch.setattr(cpu_steps, "take", take)
    return calls


def weights(trainer):
    return torch.cat([V.detach().flatten() for V in trainer.lightning_module.net.parameters()])


def assert_trained_alike(trainer, other, allowed=1e-5):
    assert trainer.global_step == other.global_step
    assert trainer.current_epoch == other.current_epoch
    assert (weights(trainer) - weights(other)).norm() <= allowed * weights(other).norm()
    found, expected = (one.optimizers[0].state_dict() for one in (trainer, other))
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert found["state"][number].keys() == state.keys()
        for name, value in state.items():
            V = found["state"][number][name]
            assert V.dtype == value.dtype
            assert V.shape == value.shape
            assert (V - value).norm() <= 100 * allowed * value.norm() + 1e-7
    for name, value in other.callback_metrics.items():
        assert trainer.callback_metrics[name] == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize("task", SETS)
@each_optimizer
def test_300_steps_are_those_one_at_a_time(fit, one_by_one, counted, optimizer, task):
    of_model = {"optimizer": OPTIMIZERS[optimizer]}
    trainer = fit(module=module_of(task), of_model=of_model)
    assert trainer.lightning_module.why_no_kernel is None
    by_pytorch = 300 - sum(counted)
    assert by_pytorch == (0 if optimizer in ("SGD", "weight decay") else 1)  # the first step, which makes the state
    assert max(counted) > 1
    assert_trained_alike(trainer, one_by_one(module=module_of(task), of_model=of_model))
    assert_trained_alike(trainer, fit(None, module=module_of(task), of_model=of_model))


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.05},
        {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "norm"},
        {"of_model": {"lr_scheduler": partial(ExponentialLR, gamma=0.9)}},
        {"of_model": {"lr_scheduler": partial(ExponentialLR, gamma=0.99), "scheduler_interval": "step"}},
        {"of_model": {"lr_scheduler": partial(OneCycleLR, max_lr=0.05)}},
        {"of_model": {"class_weight": [1.0, 3.0], "label_smoothing": 0.1}},
        {"of_model": {"backward": "streamed"}},
        {"of_model": {"standardize": False}},
        {"max_steps": 31, "max_epochs": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("optimizer", ["Nesterov", "AMSGrad"])
def test_options_of_a_run(fit, counted, optimizer, options):
    options = options | {"of_model": {"optimizer": OPTIMIZERS[optimizer], **options.get("of_model", {})}}
    trainer = fit(**options)
    assert trainer.lightning_module.why_no_kernel is None
    assert sum(counted) == trainer.global_step - 1
    assert_trained_alike(trainer, fit(None, **options))


def warm_up(step):
    return min(1.0, (step + 1) / 40)


LAMBDA = partial(LambdaLR, lr_lambda=warm_up)


class HalfWay(LRScheduler):
    """A schedule of one's own, of which nothing is known."""

    def get_lr(self):
        return [0.5 * rate if self.last_epoch > 20 else rate for rate in self.base_lrs]


@pytest.mark.parametrize(
    ("schedule", "in_blocks"),
    [
        (partial(OneCycleLR, max_lr=0.05), True),
        (partial(OneCycleLR, max_lr=0.05, cycle_momentum=False, pct_start=0.05), True),
        # Where momentum is zero, SGD leaves its buffer alone: at step 62, which is not the first of a call.
        (partial(OneCycleLR, max_lr=0.05, base_momentum=0.0, total_steps=300, pct_start=0.21), False),
        (LAMBDA, False),
        (partial(CosineAnnealingWarmRestarts, T_0=7), True),
        (HalfWay, False),
    ],
    ids=[
        "OneCycleLR with momentum",
        "OneCycleLR",
        "OneCycleLR without momentum at times",
        "LambdaLR",
        "warm restarts",
        "one's own",
    ],
)
@pytest.mark.parametrize("optimizer", ["Nesterov", "AMSGrad", "AdamW"])
def test_a_schedule_by_step_is_known_before_the_steps(fit, counted, optimizer, schedule, in_blocks):
    of_model = {"optimizer": OPTIMIZERS[optimizer], "lr_scheduler": schedule, "scheduler_interval": "step"}
    trainers = []
    for at_once in (None, 1):  # as many as a call takes, and one, to the last bit
        with pytest.MonkeyPatch.context() as patch:
            if at_once:
                patch.setattr(kernel_steps, "foreseeable", lambda *_: False)
            counted.clear()
            trainers.append(fit(of_model=of_model))
            assert (max(counted) > 1) == (in_blocks and not at_once)
    one, other = trainers
    assert torch.equal(weights(one), weights(other))
    states = [run.optimizers[0].state_dict()["param_groups"] for run in trainers]
    assert states[0] == states[1]
    scheduled = [run.lr_scheduler_configs[0].scheduler.state_dict()["last_epoch"] for run in trainers]
    assert scheduled == [one.global_step] * 2


def test_before_the_first_step_no_scheduler_is_stepped(fit, counted):
    """PyTorch would warn of it."""
    schedule = partial(LinearLR, total_iters=40)
    fit(of_model={"optimizer": OPTIMIZERS["SGD"], "lr_scheduler": schedule, "scheduler_interval": "step"})
    assert counted[:2] == [1, 6]  # of a block of seven


def test_there_are_four_updates_for_all_steps_or_for_each():
    W, b = torch.zeros(1, 2), torch.zeros(1)
    parameters = Parameters(W, b, torch.zeros(1, 1), torch.zeros(1))
    steps = Steps([cpu_steps.Update(cpu_steps.SGD, 0.1)] * 8, [torch.arange(3)] * 3)
    with pytest.raises(ValueError, match="updates must be four, or four for each of 3 steps, got 8"):
        cpu_steps.take(Examples(torch.ones(3, 2), torch.ones(3)), parameters, Objective("relu", "binary"), steps)


def test_clipping_clips_a_run(fit):
    free, clipped = fit(), fit(gradient_clip_val=1e-3, of_model={"optimizer": OPTIMIZERS["SGD"]})
    assert (weights(free) - weights(clipped)).norm() > 0.1


def test_weights_of_rows(fit, counted):
    X = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    w = torch.linspace(0, 2, 100)
    loaders = [TensorLoader((X, (X[:, 0] > 0).long(), w), batch_size=13, steps_per_call=k) for k in (16, None)]
    trainer = fit(loader=loaders[0], max_steps=-1, max_epochs=9)
    assert sum(counted) == 71
    assert_trained_alike(trainer, fit(None, loader=loaders[1], max_steps=-1, max_epochs=9))


def test_the_whole_of_the_rows_again_and_again(fit, counted):
    """As configs/flower.yaml has it: the rows come in their order, and an epoch is several iterations."""
    module = partial(module_of, batch_size=None, iterations_per_epoch=20)
    of_model = {"optimizer": OPTIMIZERS["SGD"], "standardize": False}
    trainer = fit(module=module(), of_model=of_model)
    assert set(counted) == {16, 4}
    assert_trained_alike(trainer, fit(None, module=module(), of_model=of_model))


def test_the_loss_on_held_out_rows_is_the_same_over_five_seeds(fit, one_by_one):
    for seed in range(5):
        module = partial(module_of, "multiclass", val_fraction=0.3, seed=seed)
        runs = [train(module=module(), max_steps=-1, max_epochs=5) for train in (fit, one_by_one)]
        found, expected = (run.callback_metrics["val_loss"].item() for run in runs)
        assert found == pytest.approx(expected, rel=1e-5)


# Checkpoints.


@pytest.mark.parametrize("optimizer", ["SGD", "Nesterov", "AMSGrad", "AdamW"])
@pytest.mark.parametrize("step", [1, 10, 33, 60])
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(fit, tmp_path, counted, optimizer, step, interval):
    """Checkpoints lie within epochs of 31 steps; where blocks end is another matter in each run."""
    schedule = {"lr_scheduler": partial(ExponentialLR, gamma=0.9), "scheduler_interval": interval}
    options = {"of_model": {"optimizer": OPTIMIZERS[optimizer], **schedule}, "max_steps": 75}
    whole = fit(**options)
    half = fit(**options | {"max_steps": step})
    half.save_checkpoint(tmp_path / "half.ckpt")
    counted.clear()
    resumed = fit(**options, ckpt_path=tmp_path / "half.ckpt")
    assert sum(counted) == 75 - step  # the state is there
    assert resumed.global_step == whole.global_step == 75
    assert torch.equal(weights(resumed), weights(whole))
    found, expected = (run.optimizers[0].state_dict() for run in (resumed, whole))
    assert found["param_groups"] == expected["param_groups"]
    for number, state in expected["state"].items():
        assert all(torch.equal(found["state"][number][name], V) for name, V in state.items())


def test_checkpoints_lie_where_they_are_asked_for(fit, tmp_path, counted):
    callback = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=12)
    trainer = fit(callbacks=callback, enable_checkpointing=True, max_steps=48)
    assert counted
    assert trainer.global_step == 48
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["step=12", "step=24", "step=36", "step=48"]
    assert torch.load(tmp_path / "step=24.ckpt", weights_only=True)["global_step"] == 24


# What the kernel leaves to others, and what goes wrong.


class Frozen(LitTwoLayer):
    def configure_optimizers(self):
        self.net.b1.requires_grad_(False)
        return super().configure_optimizers()


class Looks(LitTwoLayer):
    def configure_optimizers(self):
        self.standardize_inputs.register_forward_hook(lambda *_: None)
        return super().configure_optimizers()


class NetOfItsOwn(LitTwoLayer):
    def configure_optimizers(self):
        original = self.net.loss_and_grads
        self.net.loss_and_grads = lambda *args, **options: original(*args, **options)
        return super().configure_optimizers()


class OneGroup(LitTwoLayer):
    def configure_optimizers(self):
        return torch.optim.SGD([self.net.W1, self.net.W2], lr=0.1, fused=True)


class TensorRate(LitTwoLayer):
    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=torch.tensor(0.1), fused=True)


class MyAdam(Adam):
    pass


STEP_BY_STEP = {
    "the precision is 64-true": {"precision": "64-true"},
    "the precision is bf16-mixed": {"precision": "bf16-mixed"},
    "gradient_clip_val is 0.1, by value": {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    "gradient_clip_val is inf": {"gradient_clip_val": math.inf},
    "train_metrics": {"of_model": {"train_metrics": True}},
    "mode 'autograd'": {"of_model": {"backward": "autograd"}},
    "the optimizer is torch.optim.adagrad.Adagrad": {"of_model": {"optimizer": torch.optim.Adagrad}},
    "MyAdam": {"of_model": {"optimizer": MyAdam}},
    "otherwise than Adam(fused=True)": {"of_model": {"optimizer": partial(Adam, foreach=True)}},
    "otherwise than SGD(fused=True)": {"of_model": {"optimizer": partial(SGD, lr=0.1, fused=False)}},
    "otherwise than AdamW(fused=True)": {"of_model": {"optimizer": partial(AdamW, maximize=True)}},
    "all four parameters, and no others": {"model": Frozen},
    "not all four parameters": {"model": OneGroup},
    "Standardize has a forward hook": {"model": Looks},
    "TwoLayerNet has methods of its own": {"model": NetOfItsOwn},
    "options are no numbers": {"model": TensorRate},
}


@pytest.mark.parametrize("reason", STEP_BY_STEP)
def test_what_the_kernel_does_not_do_goes_step_by_step_and_the_run_says_so(fit, counted, caplog, reason):
    caplog.set_level("INFO")
    options = {"max_steps": 40, **STEP_BY_STEP[reason]}
    trainer = fit(**options)
    assert reason in trainer.lightning_module.why_no_kernel
    assert not counted
    said = [record.message for record in caplog.records if record.message.startswith("steps of a block: one by one")]
    assert said == [f"steps of a block: one by one, since {trainer.lightning_module.why_no_kernel}"]
    assert_trained_alike(trainer, fit(None, **options), 0.1 if "bf16" in reason else 1e-5)


def test_the_run_says_nothing_where_the_kernel_steps(fit, caplog):
    caplog.set_level("INFO")
    fit(max_steps=40)
    assert "one by one" not in caplog.text


def test_state_of_another_dtype_goes_step_by_step(fit):
    options = {"optimizer": OPTIMIZERS["momentum"]}
    trainer = fit(max_steps=31, of_model=options)
    optimizer = trainer.optimizers[0]
    parameters = Parameters(*trainer.lightning_module.net.parameters())
    assert isinstance(kernel_steps.updates(optimizer, parameters), list)
    state = optimizer.state[parameters.W2]
    state["momentum_buffer"] = state["momentum_buffer"].double()
    assert "the optimizer's state is no float32" in kernel_steps.updates(optimizer, parameters)


def test_where_no_library_was_built(fit, monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: "none was built in a folder")
    trainer = fit(max_steps=40)
    assert trainer.lightning_module.why_no_kernel == "none was built in a folder"
    monkeypatch.undo()
    assert_trained_alike(trainer, fit(max_steps=40))


TENSORS = {
    "float64 rows": lambda X, Y: (X.double(), Y),
    "columns": lambda X, Y: (X.T.contiguous().T, Y),
    "targets of half precision": lambda X, Y: (X, Y.half()),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_rows_that_it_does_not_read(kind):
    model = LitTwoLayer(3, 4, 1)
    X, Y = torch.randn(20, 3), torch.ones(20)
    assert not isinstance(kernel_problem.problem(model.net, (X, Y), model.standardize_inputs, None), str)
    assert isinstance(kernel_problem.problem(model.net, TENSORS[kind](X, Y), model.standardize_inputs, None), str)


FITS = {
    ("binary", 1): [torch.ones(9), torch.ones(9, 1), torch.ones(9, dtype=torch.bool), torch.ones(9, dtype=torch.int8)],
    ("multilabel", 2): [torch.ones(9, 2), torch.ones(9, 2, dtype=torch.long)],
    ("multiclass", 3): [torch.ones(9, dtype=torch.long), torch.ones(9, 3) / 3],
    ("regression", 2): [torch.ones(9, 2)],
    ("regression", 1): [torch.ones(9, 1), torch.ones(9)],
}
FITS_NOT = {
    ("binary", 1): [torch.ones(9, 2), torch.ones(8), torch.ones(9, 1, 1)],
    ("multilabel", 2): [torch.ones(9), torch.ones(9, 1)],
    ("multiclass", 3): [torch.ones(9, dtype=torch.bool), torch.ones(9), torch.ones(9, 1, dtype=torch.long)],
    ("regression", 2): [torch.ones(9), torch.ones(9, 2, dtype=torch.double), torch.ones(9, 2, dtype=torch.long)],
    ("regression", 1): [torch.ones(9, 2)],
}


@pytest.mark.parametrize(("task", "n_y"), FITS)
def test_shapes_and_dtypes_of_targets(task, n_y):
    model = LitTwoLayer(3, 4, n_y, task=task)
    for targets, fits in ((FITS, True), (FITS_NOT, False)):
        for Y in targets[task, n_y]:
            found = kernel_problem.problem(
                model.net, (torch.randn(9, 3), Y), model.standardize_inputs, model.standardize_targets
            )
            assert isinstance(found, str) != fits, (Y.shape, Y.dtype, found)


@pytest.mark.parametrize("where", [0, 14, 75])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_step_that_is_not_finite_is_named(fit, one_by_one, counted, where, value):
    X, Y = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)), torch.ones(100)
    X[where, 1] = value
    said = []
    for train in (fit, one_by_one):
        loader = TensorLoader((X, Y), batch_size=10, steps_per_call=16)
        with pytest.raises(FloatingPointError) as error:
            train(loader=loader, of_model={"standardize": False}, max_steps=-1, max_epochs=3)
        said.append(str(error.value))
    assert counted
    assert said[0] == said[1]
    if value != math.inf:  # which the tanh makes one of, so that the next step meets it
        assert f"at step {where // 10 + 1}: X has nan in row {where % 10}, column 1 of its batch" in said[0]


def test_a_learning_rate_that_is_too_large_ends_at_the_same_step(fit, one_by_one):
    said = []
    for train in (fit, one_by_one):
        with pytest.raises(FloatingPointError) as error:
            train(module=module_of("regression"), of_model={"optimizer": partial(SGD, lr=1e12), "activation": "relu"})
        said.append(str(error.value).partition(":")[0])
    assert said[0] == said[1]


@pytest.mark.parametrize("where", [3, 47])
def test_a_target_out_of_range_raises_as_ever_after_the_steps_before_it(fit, one_by_one, where):
    X, Y = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)), torch.ones(100)
    Y[where] = 3
    ends = []

    class Ends(LitTwoLayer):
        def configure_optimizers(self):
            ends.append(self.net)
            return super().configure_optimizers()

    of_model = {"optimizer": OPTIMIZERS["SGD"]}
    for train in (fit, one_by_one):
        loader = TensorLoader((X, Y), batch_size=10, steps_per_call=16)
        with pytest.raises(ValueError, match=r"Y must lie in \[0, 1\] for task 'binary', got values from 1.0 to 3.0"):
            train(loader=loader, model=Ends, of_model=of_model, max_steps=-1, max_epochs=3)
    for V, W in zip(*(net.parameters() for net in ends), strict=True):
        assert torch.equal(V, W)


def test_long_steps_are_several_calls(fit, counted, monkeypatch):
    """Between two calls, Python looks for signals; that changes nothing."""
    whole = fit(max_steps=62)
    assert max(counted) == 16
    counted.clear()
    monkeypatch.setattr(cpu_steps, "IN_A_CALL", 3 * cpu.work_of(13, 2, 5, 1))
    parts = fit(max_steps=62)
    assert set(counted) == {1, 3}
    assert torch.equal(weights(parts), weights(whole))


@pytest.mark.parametrize("shuffle", [False, True])
def test_defaults_of_pytorch_s_have_no_say_in_the_kernel_s_buffers(shuffle):
    torch.manual_seed(0)
    X, Y = torch.randn(90, 3), torch.randn(90, 1)
    nets = [LitTwoLayer(3, 5, 1, task="regression", standardize=False).net for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    for net, change in zip(nets, (None, torch.set_default_device, torch.set_default_dtype), strict=True):
        loader = TensorLoader((X, Y), batch_size=16, shuffle=shuffle, seed=3, steps_per_call=6)
        optimizer = SGD(net.parameters(), lr=0.1, fused=True)
        parameters = Parameters(*net.parameters())
        none = Standard(torch.zeros(3), torch.ones(3), torch.zeros(1), torch.ones(1))
        of = kernel_steps.Problem(
            Examples(X, Y, None, None), parameters, Objective(net.activation, "regression", 0.0), none
        )
        changes = kernel_steps.updates(optimizer, parameters)
        if change is not None:
            change("meta" if change is torch.set_default_device else torch.float64)
        try:
            (block,) = loader
            found = kernel_steps.take(of, optimizer, changes, block.rows, math.inf)
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
        assert [size for _, size in found] == [16] * 5 + [10]
        assert all(J.dtype is torch.float32 and 0 < J < 100 for J, _ in found)
    for net in nets[1:]:
        assert all(torch.equal(V, W) for V, W in zip(net.parameters(), nets[0].parameters(), strict=True))
