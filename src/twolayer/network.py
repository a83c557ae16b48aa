"""The network as a module: ``TwoLayerNet``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from twolayer import arguments, functional
from twolayer.activations import ACTIVATIONS
from twolayer.arguments import one_of, positive_int
from twolayer.context import no_autocast, parameters_of, runs_otherwise
from twolayer.equations import Parameters
from twolayer.initialization import INITIALIZATIONS, initialize
from twolayer.kernels import plain
from twolayer.names import ActivationName, BackwardName, InitName, KernelName, ReductionName, TaskName
from twolayer.sequential import parts_of
from twolayer.tasks import TASKS, Examples

FOUR = frozenset(Parameters._fields)


class TwoLayerNet(nn.Module):
    """A network with one hidden layer, whose gradients are the notes' equations.

    It does what ``nn.Sequential(nn.Linear(n_x, n_h), activation, nn.Linear(n_h, n_y))`` does, and knows its cost: the
    task fixes the output activation and the loss, so that ``dZ2 = A2 − Y``. The parameters are ``W1 (n_h, n_x)``,
    ``b1 (n_h,)``, ``W2 (n_y, n_h)``, ``b2 (n_y,)``.

    Args:
        in_features: input features ``n_x``.
        hidden_features: hidden units ``n_h``.
        out_features: outputs ``n_y``: 1 for binary, the number of labels, classes or regressed values otherwise.
        activation: hidden activation, ``"sigmoid"``, ``"tanh"``, ``"relu"`` or ``"leaky_relu"``.
        task: ``"binary"``, ``"multilabel"``, ``"multiclass"`` or ``"regression"``.
        init: ``"course"``, ``"zeros"``, ``"xavier"`` or ``"he"``, see :func:`twolayer.initialization.initialize`.
        backward: ``"manual"`` for the notes' equations, ``"streamed"`` for the same over a chunk of examples at a time,
            where nothing of size ``m × n_h`` exists, ``"autograd"`` to let PyTorch differentiate.
        class_weight: weight of each class in the cost, ``(2,)`` for binary, ``(n_y,)`` for multiclass.
        label_smoothing: moves the targets of the cost towards the uniform distribution, in [0, 1).
        chunk_size: examples at a time where these go in chunks; None for
            :func:`twolayer.kernels.chunked.default_chunk_size`.
        kernel: what computes cost and gradients, but in mode ``"autograd"``: ``"torch"``, ``"cpu"``, one of
            :mod:`twolayer.kernels.gpu`, or None for the first that can, see :func:`twolayer.functional.kernel_for`.
        generator: source of the random start, for a start that can be repeated.
        device, dtype: of the parameters, as for :class:`torch.nn.Linear`.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    >>> net = TwoLayerNet(2, 4, 1, activation="tanh", generator=torch.Generator().manual_seed(0))
    >>> X, Y = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
    >>> net(X).shape
    torch.Size([2, 1])
    >>> net.loss(X, Y).backward()
    >>> J, grads = net.loss_and_grads(X, Y)
    >>> torch.allclose(grads["W1"], net.W1.grad)
    True
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        activation: ActivationName = "relu",
        task: TaskName = "binary",
        init: InitName = "he",
        backward: BackwardName = "manual",
        class_weight: Tensor | list[float] | None = None,
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
        kernel: KernelName | None = None,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.class_weight: Tensor | None
        self.activation: ActivationName
        self.task: TaskName
        self.init: InitName
        self.backward: BackwardName
        self.kernel: KernelName | None
        self._class_weight: list[float] | None = None
        self.in_features = positive_int("in_features", in_features)
        self.hidden_features = positive_int("hidden_features", hidden_features)
        self.out_features = positive_int("out_features", out_features)
        objective = arguments.objective(activation, task, label_smoothing)
        self.activation, self.task, self.label_smoothing = activation, task, objective.label_smoothing
        self.init = one_of("init", init, INITIALIZATIONS)
        self.backward = arguments.mode(backward, arguments.plan(chunk_size), functional.BACKWARDS)
        plan = arguments.plan(chunk_size, kernel)
        self.chunk_size, self.kernel = plan.chunk_size, kernel
        if task == "binary" and out_features != 1:
            raise ValueError(f"out_features must be 1 for task 'binary', got {out_features}; 'multilabel' has several")
        dtype = arguments.dtype(dtype or torch.get_default_dtype())
        if class_weight is not None:
            if isinstance(class_weight, Tensor) and class_weight.is_complex():
                raise TypeError(f"class_weight must be real, got {class_weight.dtype}")
            if (
                isinstance(class_weight, Tensor)
                and class_weight.is_meta
                and torch.device(device or "cpu").type != "meta"
            ):
                raise ValueError(
                    f"class_weight must hold numbers, got a meta tensor for a network on {device or 'cpu'}"
                )
            where = None if isinstance(class_weight, Tensor) else "cpu"  # whatever the default device
            try:
                class_weight = torch.as_tensor(class_weight, dtype=dtype, device=where)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"class_weight must be a tensor or a list of numbers, got {class_weight!r}") from error
            arguments.class_weights(class_weight, task, self.out_features)
            self._class_weight = None if class_weight.is_meta else class_weight.tolist()

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.W1 = parameter(self.hidden_features, self.in_features)
        self.b1 = parameter(self.hidden_features)
        self.W2 = parameter(self.out_features, self.hidden_features)
        self.b2 = parameter(self.out_features)
        buffer = None if class_weight is None else torch.empty_like(class_weight, device=self.W1.device)
        self.register_buffer("class_weight", buffer)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draws the start anew, by the rule ``init``, and takes the class weights that were given."""
        initialize(self.init, self.W1, self.b1, self.W2, self.b2, generator)
        self.reset_class_weight()

    def reset_class_weight(self) -> None:
        """Takes the class weights that were given, as after ``to_empty``."""
        if self.class_weight is not None and self._class_weight is not None:
            self.class_weight.copy_(torch.tensor(self._class_weight, dtype=torch.float64, device="cpu"))

    def forward(
        self,
        X: Tensor,
        Y: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        reduction: ReductionName = "mean",
    ) -> Tensor:
        """The logits ``Z2``, ``(..., out_features)``, of ``X``, ``(..., in_features)``; with ``Y``, the cost instead.

        The cost is for wrappers such as DDP, which see this call: ``ddp(X, Y)`` is one pass in mode ``"streamed"``.
        Arguments and errors: see :func:`twolayer.functional.loss`.
        """
        kernel = None if self.backward == "autograd" else self.kernel
        parameters = self._parameters_as_called()
        if Y is None:
            if sample_weight is not None or reduction != "mean":
                raise ValueError("sample_weight and reduction are of the cost: Y must be given with them, got None")
            return functional.logits(
                X,
                *parameters,
                activation=self.activation,
                backward=self.backward,
                chunk_size=self.chunk_size,
                kernel=kernel,
            )
        return functional.loss(
            X,
            Y,
            *parameters,
            activation=self.activation,
            task=self.task,
            sample_weight=sample_weight,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            reduction=reduction,
            backward=self.backward,
            chunk_size=self.chunk_size,
            kernel=kernel,
        )

    if TYPE_CHECKING:  # nn.Module's own returns Any

        def __call__(
            self,
            X: Tensor,
            Y: Tensor | None = None,
            *,
            sample_weight: Tensor | None = None,
            reduction: ReductionName = "mean",
        ) -> Tensor: ...

    def predict(self, X: Tensor) -> Tensor:
        """The output ``A2``: probabilities, or the mean for regression; ``(..., out_features)``, differentiable.

        >>> TwoLayerNet(2, 4, 3, task="multiclass", init="zeros").predict(torch.ones(2))
        tensor([0.3333, 0.3333, 0.3333], grad_fn=<SoftmaxBackward0>)
        """
        return self.output(self(X))

    def output(self, logits: Tensor) -> Tensor:
        """The last activation: ``A2`` of logits that are already there."""
        return TASKS[self.task].output(logits)

    def cost(
        self, logits: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None, reduction: ReductionName = "mean"
    ) -> Tensor:
        """The cost of logits that are already there: those of a wrapper of this module, such as DDP, say.

        Arguments and errors: see :func:`twolayer.functional.cost`.
        """
        if isinstance(logits, Tensor) and logits.shape[-1:] != (self.out_features,):
            raise ValueError(f"logits must have shape (..., {self.out_features}), got {tuple(logits.shape)}")
        return functional.cost(
            logits,
            Y,
            task=self.task,
            sample_weight=sample_weight,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            reduction=reduction,
            backward=self.backward,
        )

    def loss(
        self, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None, reduction: ReductionName = "mean"
    ) -> Tensor:
        """The cost ``J`` of the network on ``(X, Y)``; ``loss(X, Y).backward()`` fills the gradients.

        It is always the cost of what ``net(X)`` gives. Where a hook or a ``forward`` of a subclass has a say in that,
        the network is called for its logits first, which cost a pass more; FSDP2 has such hooks.

        Arguments and errors: see :func:`twolayer.functional.cost`.
        """
        if self.called_otherwise() is None:
            return self(X, Y=Y, sample_weight=sample_weight, reduction=reduction)
        return self.cost(self(X), Y, sample_weight=sample_weight, reduction=reduction)

    def called_otherwise(self) -> str | None:
        """What has a say in ``net(X)`` beside the four parameters, in words: a hook, or a ``forward`` or
        ``__call__`` of its own.

        None if nothing does. Otherwise, what goes by the parameters alone is refused: :meth:`loss_and_grads`,
        :meth:`hvp`, :meth:`per_sample_grad_norms` and gradient descent by the notes' equations.

        >>> TwoLayerNet(2, 4, 1).called_otherwise() is None
        True
        """
        return runs_otherwise(self, TwoLayerNet)

    def loss_and_grads(
        self,
        X: Tensor,
        Y: Tensor,
        *,
        sample_weight: Tensor | None = None,
        chunk_size: int | None = None,
        kernel: KernelName | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost and its gradients by the notes' equations, with no autograd graph.

        The mode in ``backward`` has no say here: there is no graph for it to act on. Nothing is written to ``.grad``.
        Without a ``chunk_size`` or ``kernel``, the network's own counts.

        Returns:
            ``J``, a scalar, and ``{"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}``.

        Arguments and errors: see :func:`twolayer.functional.loss_and_grads`. The network is not called as a module;
        where that would make a difference, see :meth:`called_otherwise`, a RuntimeError says so. A parameter under two
        names has the sum of its gradients under both.
        """
        parameters = self._current_parameters()
        J, grads = functional.loss_and_grads(
            X,
            Y,
            *parameters,
            activation=self.activation,
            task=self.task,
            sample_weight=sample_weight,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            chunk_size=self.chunk_size if chunk_size is None else chunk_size,
            kernel=self.kernel if kernel is None else kernel,
        )
        return J, _summed(grads, parameters)

    @torch.no_grad()
    def trace(self, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None) -> plain.Trace:
        """Every quantity of the equations by its name, from ``Z1`` to ``dX``: to look at, line by line.

        All examples at once by :mod:`twolayer.equations`, in PyTorch's operators and the dtype of the parameters. No
        graph is built, nothing is written to ``.grad``. ``X`` of another leading shape than ``(m,)`` is taken as rows.

        Returns:
            A named tuple ``Z1, A1, Z2, A2, Y, L, J, dZ2, dW2, db2, dA1, slope, dZ1, dW1, db1, dX``, see
            :class:`twolayer.kernels.plain.Trace`; ``slope`` is ``g'(Z1)``.

        Arguments and errors: as for :meth:`loss_and_grads`, hooks too. Of a parameter under two names, each gradient is
        that of its own place.

        >>> net = TwoLayerNet(2, 4, 1, activation="tanh")
        >>> t = net.trace(torch.ones(5, 2), torch.ones(5))
        >>> t.dZ1.shape
        torch.Size([5, 4])
        >>> torch.equal(t.dZ1, t.dA1 * t.slope)
        True
        """
        objective = arguments.objective(self.activation, self.task, self.label_smoothing)
        examples, parameters = Examples(X, Y, sample_weight, self.class_weight), self._current_parameters()
        examples, parameters, _ = arguments.call(examples, parameters, self.task)
        with no_autocast(X.device):
            return plain.trace(examples, parameters, objective)

    def hvp(
        self,
        X: Tensor,
        Y: Tensor,
        v: dict[str, Tensor],
        *,
        sample_weight: Tensor | None = None,
        chunk_size: int | None = None,
    ) -> dict[str, Tensor]:
        """The Hessian of the cost with respect to the parameters times ``v``, exact, in one pass of constant memory.

        Arguments, formula and errors: see :func:`twolayer.functional.hvp`; hooks as for :meth:`loss_and_grads`.

        >>> net = TwoLayerNet(2, 4, 1)
        >>> v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
        >>> net.hvp(torch.ones(5, 2), torch.ones(5), v)["W1"].shape
        torch.Size([4, 2])
        """
        parameters = self._current_parameters()
        for one, other in _tied(parameters):
            v = {other: v[one], **v} if isinstance(v, Mapping) and one in v else v
            if isinstance(v, Mapping) and v.get(one) is not v.get(other):
                raise ValueError(f"v[{one!r}] and v[{other!r}] must be one tensor, as {one} and {other} are")
        product = functional.hvp(
            X,
            Y,
            *parameters,
            v,
            activation=self.activation,
            task=self.task,
            sample_weight=sample_weight,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            chunk_size=self.chunk_size if chunk_size is None else chunk_size,
        )
        return _summed(product, parameters)

    def per_sample_grad_norms(self, X: Tensor, Y: Tensor, *, chunk_size: int | None = None) -> Tensor:
        """The norm of the gradient of each example's own loss: which examples pull, in one pass.

        Arguments, formula and errors: see :func:`twolayer.functional.per_sample_grad_norms`; hooks as for
        :meth:`loss_and_grads`.

        >>> net = TwoLayerNet(2, 4, 1)
        >>> net.per_sample_grad_norms(torch.ones(5, 2), torch.ones(5)).shape
        torch.Size([5])
        """
        parameters = self._current_parameters()
        for one, other in _tied(parameters):
            raise RuntimeError(f"{one} and {other} must be two parameters for the norms of both, got one for the two")
        return functional.per_sample_grad_norms(
            X,
            Y,
            *parameters,
            activation=self.activation,
            task=self.task,
            label_smoothing=self.label_smoothing,
            chunk_size=chunk_size,
        )

    def trainable(self) -> dict[str, Tensor]:
        """What an optimizer changes: the parameters that require a gradient, by name."""
        return {name: V for name, V in self.named_parameters() if V.requires_grad}

    def _current_parameters(self) -> Parameters:
        """``W1, b1, W2, b2``, for what does not call the module. A plain attribute in their place would be stale."""
        own = parameters_of(self)
        if not own.keys() >= FOUR and (stale := [name for name in Parameters._fields if name in self.__dict__]):
            raise RuntimeError(
                f"{', '.join(stale)} must be a parameter, got a tensor that a hook refreshes whenever the network is "
                "called, as torch.nn.utils.prune does: call loss(X, Y).backward(), or make it permanent (prune.remove)"
            )
        if reason := self.called_otherwise():
            raise RuntimeError(
                f"the network must be no more than its four parameters, got {reason}, which counts only where the "
                "network is called: use loss(X, Y).backward(), or backward='autograd' for gradient_descent"
            )
        return self._parameters_as_called()

    def _parameters_as_called(self) -> Parameters:
        if torch.compiler.is_compiling():  # an exported program would have the others in another order
            return Parameters(self.W1, self.b1, self.W2, self.b2)
        own = parameters_of(self)
        try:
            return Parameters(own["W1"], own["b1"], own["W2"], own["b2"])
        except KeyError:  # computed by a parametrization, or plain attributes
            return Parameters(self.W1, self.b1, self.W2, self.b2)

    def to_sequential(self) -> nn.Sequential:
        """``nn.Sequential(Linear, activation, Linear)`` with these very parameters: what trains one trains the other.

        Raises:
            RuntimeError: the network is more than its parameters, see :meth:`called_otherwise`, or they are computed.

        >>> net = TwoLayerNet(2, 4, 1)
        >>> net.to_sequential()[0].weight is net.W1
        True
        """
        activation = ACTIVATIONS[self.activation].module()
        first = nn.Linear(self.in_features, self.hidden_features, device="meta")
        second = nn.Linear(self.hidden_features, self.out_features, device="meta")
        parameters = self._current_parameters()
        for name, V in parameters._asdict().items():
            if not isinstance(V, nn.Parameter):
                raise RuntimeError(
                    f"{name} must be a parameter, got a tensor that is computed, as by a parametrization"
                )
        first.weight, first.bias, second.weight, second.bias = parameters  # type: ignore[assignment]
        return nn.Sequential(first, activation, second).train(self.training)

    @classmethod
    def from_sequential(cls, sequential: nn.Sequential, **options: Any) -> "TwoLayerNet":
        """The network that shares the parameters of an ``nn.Sequential(Linear, activation, Linear)``.

        Args:
            sequential: two linear layers with biases, and one of the activations between them.
            options: ``task``, ``backward`` and the like, as for the constructor.

        Raises:
            TypeError: it is no ``nn.Sequential``.
            ValueError: it is built otherwise, see :func:`twolayer.sequential.parts_of`; the message names the layer.

        >>> seq = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
        >>> TwoLayerNet.from_sequential(seq, task="multiclass")
        TwoLayerNet(2, 4, 3, activation='tanh', task='multiclass', init='he', backward='manual')
        """
        first, activation, second = parts_of(sequential)
        net = cls(
            first.in_features,
            first.out_features,
            second.out_features,
            activation=activation,
            device="meta",  # nothing is drawn: the parameters are replaced
            dtype=first.weight.dtype,
            **options,
        )
        if net.class_weight is not None:
            net.class_weight = torch.empty_like(net.class_weight, device=first.weight.device)
            net.reset_class_weight()
        for name, V in zip(Parameters._fields, (first.weight, first.bias, second.weight, second.bias), strict=True):
            setattr(net, name, V)
        return net.train(sequential.training)

    def extra_repr(self) -> str:
        options = ("activation", "task", "init", "backward", *(("chunk_size",) if self.chunk_size else ()))
        names = ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
        return f"{self.in_features}, {self.hidden_features}, {self.out_features}, {names}"


@torch.enable_grad()
def gradients_by_autograd(
    net: TwoLayerNet, X: Tensor, Y: Tensor, sample_weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The cost and its gradients as ``net.loss_and_grads``, by name, but from PyTorch's graph of ``net.loss``.

    Parameters that require no gradient have none.

    >>> net = TwoLayerNet(2, 4, 1)
    >>> J, grads = gradients_by_autograd(net, torch.ones(5, 2), torch.ones(5))
    >>> torch.allclose(grads["W1"], net.loss_and_grads(torch.ones(5, 2), torch.ones(5))[1]["W1"])
    True
    """
    parameters = net.trainable()
    J = net.loss(X, Y, sample_weight=sample_weight)
    return J.detach(), dict(zip(parameters, torch.autograd.grad(J, list(parameters.values())), strict=True))


def _tied(parameters: Parameters) -> list[tuple[str, str]]:
    """Parameters under two names."""
    W1, b1, W2, b2 = parameters
    return [names for names, one in ((("W1", "W2"), W1 is W2), (("b1", "b2"), b1 is b2)) if one]


def _summed(by_name: dict[str, Tensor], parameters: Parameters) -> dict[str, Tensor]:
    """With the shares of a parameter under two names added up."""
    for one, other in _tied(parameters):
        by_name[one] = by_name[other] = by_name[one] + by_name[other]
    return by_name
