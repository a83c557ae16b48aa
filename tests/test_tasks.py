import pytest
import torch
from problems import OUTPUTS, TRUE_LOSSES, assert_equal, problem, value_and_gradients

from twolayer.tasks import TASKS, dense_targets, example_weights, smoothed

LABELS = ["binary", "multilabel"]
ANY_DTYPE = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64]


def logits_and_targets(task, soft, m=7, device="cpu"):
    p = problem("tanh", task, m=m, soft=soft, device=device)
    Z2 = p.true_logits(*p.network)
    return Z2, p.Y, dense_targets(p.Y, Z2, task)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_loss_equals_that_of_torch(task, soft, device):
    Z2, Y, dense = logits_and_targets(task, soft, device=device)
    assert_equal([TASKS[task].loss(Z2, dense)], [TRUE_LOSSES[task](Z2, Y)])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("task", LABELS)
def test_loss_of_labels_is_that_of_the_notes(task, soft):
    Z2, _, Y = logits_and_targets(task, soft)
    A2 = 1 / (1 + torch.exp(-Z2))
    assert_equal([TASKS[task].loss(Z2, Y)], [(-Y * torch.log(A2) - (1 - Y) * torch.log(1 - A2)).sum(1)])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_error_is_output_minus_target(task, soft, device):
    Z2, _, Y = logits_and_targets(task, soft, device=device)
    assert_equal([TASKS[task].error(Z2, Y)], [TASKS[task].output(Z2) - Y])


@pytest.mark.parametrize("task", TASKS)
def test_error_and_target_gradient_are_derivatives_of_the_loss(task, device):
    Z2, Y, _ = logits_and_targets(task, soft=True, device=device)
    # Targets that do not sum to one: a derivative looks at those too.
    Y = Y * torch.linspace(0.5, 1, len(Y), dtype=Y.dtype, device=device).unsqueeze(1)
    _, dZ2, dY = value_and_gradients(lambda Z2, Y: TRUE_LOSSES[task](Z2, Y).sum(), [Z2, Y])
    assert_equal([TASKS[task].error(Z2, Y), TASKS[task].target_gradient(Z2, Y)], [dZ2, dY])


def test_softmax_of_two_classes_is_the_sigmoid_of_their_difference():
    Z2 = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A2 = TASKS["multiclass"].output(Z2)
    assert_equal([A2[:, 1:], A2.sum(1)], [TASKS["binary"].output(Z2[:, 1:] - Z2[:, :1]), torch.ones_like(A2[:, 0])])


@pytest.mark.parametrize("dtype", ANY_DTYPE)
@pytest.mark.parametrize("lead", [(), (1,), (6,), (2, 3)])
@pytest.mark.parametrize("task", LABELS)
def test_labels_of_any_dtype_are_the_same(task, lead, dtype):
    logits = torch.zeros(*lead, OUTPUTS[task])
    truth = torch.randint(0, 2, logits.shape, generator=torch.Generator().manual_seed(0)).float()
    dense = dense_targets(truth.to(dtype), logits, task)
    assert dense.dtype == logits.dtype
    assert torch.equal(dense, truth)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("lead", [(), (1,), (6,), (2, 3)])
def test_class_indices_equal_their_one_hot_rows(lead, dtype, device):
    logits = torch.zeros(*lead, 4, dtype=torch.float64, device=device)
    indices = torch.randint(0, 4, lead, generator=torch.Generator().manual_seed(0)).to(device)
    rows = torch.eye(4, device=device)[indices]
    for Y in (indices.to(dtype), rows):
        dense = dense_targets(Y, logits, "multiclass")
        assert dense.dtype == torch.float64
        assert torch.equal(dense, rows.double())


@pytest.mark.parametrize("lead", [(), (1,), (6,), (2, 3)])
@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_one_output_may_lack_its_dimension(task, lead):
    logits = torch.zeros(*lead, 1)
    Y = torch.rand(*lead, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dense_targets(Y, logits, task), Y)
    assert torch.equal(dense_targets(Y.squeeze(-1), logits, task), Y)


@pytest.mark.parametrize("task", TASKS)
def test_smoothing_by_nothing_keeps_the_targets(task):
    _, _, Y = logits_and_targets(task, soft=True)
    assert smoothed(Y, 0.0, task) is Y


@pytest.mark.parametrize("task", TASKS)
def test_no_weights_are_none(task):
    _, _, Y = logits_and_targets(task, soft=False)
    assert example_weights(Y, task) is None


def test_weights_of_the_class_and_of_the_example_multiply():
    classes, examples = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0, 1.0])
    Y = torch.tensor([[0.0], [1.0], [0.5]])
    assert example_weights(Y, "binary", examples, classes).tolist() == [2.0, 15.0, 2.0]
    rows = torch.cat([1 - Y, Y], 1)
    assert example_weights(rows, "multiclass", examples, classes).tolist() == [2.0, 15.0, 2.0]
