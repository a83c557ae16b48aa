"""Tools that know nothing of this package: each does with our network what it does with ``nn.Sequential``."""

import pytest
import torch
from problems import assert_equal, problem
from torch import func, nn
from torch.nn.utils import parametrize, prune
from torch.utils.data import DataLoader, TensorDataset

from .models import Ours, Theirs
from .test_func import functional

contract = pytest.mark.contract
# PyTorch's own: Opacus hears of gradients by a hook that fires late where no input needs a gradient.
opacus_warns = pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed")

WEIGHTS = {Ours: [("W1", "b1"), ("W2", "b2")], Theirs: [("weight", "bias"), ("weight", "bias")]}


def layers(model: Ours | Theirs) -> list[tuple[nn.Module, str, str]]:
    """Both layers, each as the module that has it, and the names of its weight and bias there."""
    modules = [model.net, model.net] if isinstance(model, Ours) else [model.net[0], model.net[2]]
    return [(module, *names) for module, names in zip(modules, WEIGHTS[type(model)], strict=True)]


def trained(model, X, Y, optimizer, steps=3):
    """The costs of some steps, and the parameters after them."""
    costs = []
    for _ in range(steps):
        optimizer.zero_grad()
        J = model(X, Y)
        J.backward()
        optimizer.step()
        costs.append(J.detach())
    return costs, [p.detach().clone() for p in model.parameters()]


@contract("Tools, unmodified", "`torch.optim`, one tensor at a time, `foreach`, `fused`")
@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}], ids=["single", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_optimizers(same_on_one, optimizer, how):
    def optimized(model, X, Y):
        return trained(model, X, Y, optimizer(model.parameters(), lr=0.1, weight_decay=0.01, **how))

    same_on_one(optimized, tolerance=1e-8)


@contract("Tools, unmodified", "LBFGS with its closure")
def test_lbfgs(same):
    def optimized(model, X, Y):
        optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=5)

        def closure():
            optimizer.zero_grad()
            J = model(X, Y)
            J.backward()
            return J

        return [optimizer.step(closure) for _ in range(2)], list(model.parameters())

    same(optimized, tolerance=1e-6, float32=False)  # its line search takes other turns after other roundings


@contract("Tools, unmodified", "`clip_grad_norm_`, `clip_grad_value_`")
def test_clipping(same):
    def clipped(model, X, Y):
        model(X, Y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        nn.utils.clip_grad_value_(model.parameters(), 0.03)
        return norm, [p.grad for p in model.parameters()]

    same(clipped)


@contract("Tools, unmodified", "`parameters_to_vector`, `vector_to_parameters`")
def test_vector_of_parameters(same):
    def moved(model, X, Y):
        vector = nn.utils.parameters_to_vector(model.parameters())
        nn.utils.vector_to_parameters(vector - 0.5, model.parameters())
        J = model(X, Y)
        return vector, J, torch.autograd.grad(J, list(model.parameters()))

    same(moved)


@contract("Tools, unmodified", "`AveragedModel`")
@pytest.mark.parametrize("average", [None, torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)], ids=["mean", "EMA"])
def test_averaged_model(same_on_one, average):
    def averaged(model, X, Y):
        average_of = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(3):
            trained(model, X, Y, optimizer, steps=1)
            average_of.update_parameters(model)
        return average_of(X, Y), list(average_of.parameters())

    same_on_one(averaged)


@contract("Tools, unmodified", "`torch.nn.utils.prune`")
def test_pruning(same):
    def pruned(model, X, Y):
        for module, weight, _ in layers(model):
            prune.l1_unstructured(module, weight, amount=0.4)
        costs, parameters = trained(model, X, Y, torch.optim.SGD(model.parameters(), lr=0.5))
        for module, weight, _ in layers(model):
            prune.remove(module, weight)
        final = [tensor for module, *names in layers(model) for tensor in (getattr(module, name) for name in names)]
        assert sum((V == 0).sum() for V in final) > 3
        # prune moves a weight behind the biases, of one module here and of two there.
        return costs, sum(p.square().sum() for p in parameters), final, model(X, Y)

    same(pruned)


@contract("Tools, unmodified", "`loss_and_grads` under pruning raises while the weights are stale")
def test_stale_weights(example, backward):
    net = example.net(backward=backward)
    prune.l1_unstructured(net, "W1", amount=0.4)
    with pytest.raises(RuntimeError, match="W1"):
        net.loss_and_grads(example.X, example.Y)
    prune.remove(net, "W1")
    _, grads = net.loss_and_grads(example.X, example.Y)
    net.loss(example.X, example.Y).backward()
    assert_equal(list(grads.values()), [p.grad for p in (net.W1, net.b1, net.W2, net.b2)])


class Squashed(nn.Module):
    """Keeps a weight inside (−2, 2)."""

    def forward(self, V):
        return 2 * V.tanh()

    def right_inverse(self, W):
        return (W / 2).clamp(-0.9, 0.9).atanh()


@contract("Tools, unmodified", "parametrisations")
def test_parametrizations(same):
    def parametrized(model, X, Y):
        (first, W1, _), (second, W2, _) = layers(model)
        parametrize.register_parametrization(first, W1, Squashed())
        nn.utils.parametrizations.weight_norm(second, W2)
        costs, parameters = trained(model, X, Y, torch.optim.SGD(model.parameters(), lr=0.1))
        # The parameters now come in another order than those of two modules.
        return costs, sum(p.square().sum() for p in parameters), getattr(first, W1), getattr(second, W2), model(X, Y)

    same(parametrized)


@contract("Tools, unmodified", "`loss_and_grads` under parametrisations: gradients of the weights in use")
def test_gradients_of_parametrized_weights(example, backward):
    net = example.net(backward=backward)
    parametrize.register_parametrization(net, "W1", Squashed())
    for _ in range(2):
        J, grads = net.loss_and_grads(example.X, example.Y)
        with parametrize.cached():
            W1 = net.W1
            truth = net.loss(example.X, example.Y)
            dW1 = torch.autograd.grad(truth, [W1, net.b1, net.W2, net.b2])
        assert_equal([J, *grads.values()], [truth, *dW1])
        with torch.no_grad():
            net.parametrizations.W1.original.mul_(0.5)


@contract("Tools, unmodified", "Opacus: per-sample gradients")
@opacus_warns
def test_opacus_per_sample_gradients(same):
    grad_sample = pytest.importorskip("opacus.grad_sample")

    def per_sample(model, X, Y):
        wrapped = grad_sample.GradSampleModule(model.net)
        model.cost(wrapped(X), Y).backward()
        return [p.grad_sample for p in wrapped.parameters()], [p.grad for p in wrapped.parameters()]

    def vmapped(model, X, Y):
        cost, P = functional(model)
        gradient = func.grad(lambda P, x, y: cost(P, x[None], y[None]))
        per_sample = func.vmap(gradient, (None, 0, 0))(P, X, Y)
        return per_sample, [dV.mean(0) for dV in per_sample.values()]

    same(per_sample)
    same(per_sample, vmapped)


@contract("Tools, unmodified", "Opacus: one private epoch")
@opacus_warns
@pytest.mark.filterwarnings("ignore:Secure RNG turned off", "ignore:Optimal order is the")
def test_opacus_private_epoch(backward):
    opacus = pytest.importorskip("opacus")
    example = problem("tanh", "binary", m=24, soft=True, dtype=torch.float32)

    def private_epoch(model):
        engine = opacus.PrivacyEngine(accountant="rdp")
        net, optimizer, batches = engine.make_private(
            module=model.net,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
            data_loader=DataLoader(TensorDataset(example.X, example.Y), batch_size=5),
            noise_multiplier=1.0,
            max_grad_norm=0.5,
            poisson_sampling=False,
            noise_generator=torch.Generator().manual_seed(0),
        )
        for X, Y in batches:
            optimizer.zero_grad()
            model.cost(net(X), Y).backward()
            optimizer.step()
        assert 0 < engine.get_epsilon(delta=1e-3) < 100
        return list(model.parameters())

    ours, theirs = private_epoch(Ours(example, backward)), private_epoch(Theirs(example))
    assert_equal(ours, theirs, 1e-5)
    assert not torch.equal(ours[0], example.W1)


@contract("Tools, unmodified", "captum: integrated gradients")
def test_captum(same_on_one):
    attr = pytest.importorskip("captum.attr")

    def attributed(model, X, Y):
        attributions, delta = attr.IntegratedGradients(model.net).attribute(X, target=1, return_convergence_delta=True)
        assert delta.abs().max() < 1e-3
        return attributions, attr.Saliency(model.net).attribute(X.requires_grad_(), target=2)

    same_on_one(attributed, tolerance=1e-10)


@contract("Tools, unmodified", "skorch")
def test_skorch(backward):
    skorch = pytest.importorskip("skorch")
    example = problem("relu", "multiclass", m=60, dtype=torch.float32)

    def fitted(net):
        estimator = skorch.NeuralNetClassifier(
            net,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=0.05,
            max_epochs=5,
            batch_size=16,
            iterator_train__shuffle=False,
            verbose=0,
        )
        estimator.fit(example.X.numpy(), example.Y.numpy())
        losses = torch.tensor(estimator.history[:, ("train_loss", "valid_loss")])
        return [losses, torch.from_numpy(estimator.predict_proba(example.X.numpy()))]

    assert_equal(fitted(example.net(backward=backward)), fitted(example.sequential()), 1e-4)
