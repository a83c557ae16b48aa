"""TensorLoader: which rows come, in what order, in what form, and after a resume."""

import pytest
import torch
from torch.utils.data import DistributedSampler, SequentialSampler, TensorDataset

from twolayer.loading import Block, SeededSampler, TensorLoader

M = 23
X = torch.randn(M, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(M)


def flat(loader):
    """The batches, whether they come by themselves or in blocks."""
    for item in loader:
        yield from item if isinstance(item, Block) else [item]


def rows(loader):
    return [Y.tolist() for _, Y in flat(loader)]


def test_batches_in_their_order_are_views_and_the_last_one_is_kept():
    batches = list(TensorLoader((X, Y), batch_size=5))
    assert rows(TensorLoader(TensorDataset(X, Y), batch_size=5)) == [part.tolist() for part in Y.split(5)]
    assert all(torch.equal(x, X[y]) for x, y in batches)
    assert batches[1][0].data_ptr() == X[5:].data_ptr()


def test_a_batch_size_of_none_is_everything():
    loader = TensorLoader((X, Y), batch_size=None)
    assert (len(loader), loader.batch_size, rows(loader)) == (1, M, [Y.tolist()])


def test_an_epoch_has_every_row_once_in_an_order_of_its_own():
    loader = TensorLoader((X, Y), batch_size=5, shuffle=True)
    epochs = [list(loader) for _ in range(3)]
    for batches in epochs:
        assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
        assert all(torch.equal(x, X[y]) for x, y in batches)
        assert sorted(torch.cat([y for _, y in batches]).tolist()) == Y.tolist()
    orders = [torch.cat([y for _, y in batches]).tolist() for batches in epochs]
    assert len({tuple(order) for order in [*orders, Y.tolist()]}) == 4


def test_the_order_follows_from_seed_and_epoch_alone():
    def epoch(seed, number, advance):
        loader = TensorLoader((X, Y), batch_size=5, shuffle=True, seed=seed)
        for _ in range(number if advance else 0):
            list(loader)
        if not advance:
            loader.sampler.set_epoch(number)  # as Lightning does
        torch.rand(7)  # nothing else has a say
        return rows(loader)

    assert epoch(1, 2, advance=True) == epoch(1, 2, advance=False)
    assert epoch(1, 2, advance=True) != epoch(2, 2, advance=True)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("steps_per_call", [1, 2, 3, 5, 9])
def test_blocks_hold_the_same_batches(steps_per_call, shuffle):
    plain = TensorLoader((X, Y), batch_size=5, shuffle=shuffle)
    blocks = TensorLoader((X, Y), batch_size=5, shuffle=shuffle, steps_per_call=steps_per_call)
    assert rows(blocks) == rows(plain)
    assert blocks.steps == plain.steps == 5
    sizes = [len(block) for block in blocks]
    assert len(blocks) == len(sizes)
    assert sizes[:-1] == [steps_per_call] * (len(sizes) - 1)


def test_an_epoch_of_repetitions_copies_nothing():
    loader = TensorLoader((X, Y), batch_size=None, repeat=10, steps_per_call=4)
    blocks = list(loader)
    assert loader.steps == 10
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert len(loader) == 3
    assert {x.data_ptr() for x, _ in flat(loader)} == {X.data_ptr()}


@pytest.mark.parametrize("steps_per_call", [None, 2])
def test_repetitions_of_several_batches_keep_their_order(steps_per_call):
    once = TensorLoader((X, Y), batch_size=9, shuffle=True)
    twice = TensorLoader((X, Y), batch_size=9, shuffle=True, repeat=2, steps_per_call=steps_per_call)
    assert twice.steps == 6
    assert len(twice) == len(list(twice))
    twice.sampler.set_epoch(0)
    assert rows(twice) == 2 * rows(once)


def test_processes_share_the_rows():
    def shard(rank):
        sampler = DistributedSampler(TensorDataset(X, Y), num_replicas=2, rank=rank, seed=4)
        return TensorLoader((X, Y), batch_size=5, sampler=sampler, steps_per_call=2)

    parts = [[row for batch in rows(shard(rank)) for row in batch] for rank in range(2)]
    assert [len(part) for part in parts] == [12, 12]  # one row comes twice, so that both have as many
    assert set(parts[0]) | set(parts[1]) == set(range(M))
    assert len(shard(0)) == 2


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("steps_per_call", [None, 2])
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_resumed_loader_goes_on_with_what_was_left(taken, steps_per_call, shuffle):
    def loader():
        return TensorLoader((X, Y), batch_size=5, shuffle=shuffle, seed=3, steps_per_call=steps_per_call)

    first = loader()
    list(first)
    iterator = iter(first)
    for _ in range(taken):
        next(iterator)
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert rows(resumed) == rows(iterator)
    assert rows(resumed) == rows(first)  # the epoch after that
    assert len(rows(resumed)) == 5


def test_a_state_after_the_last_batch_begins_the_next_epoch():
    first, resumed = (TensorLoader((X, Y), batch_size=5, shuffle=True) for _ in range(2))
    for _, _ in zip(range(len(first)), first, strict=False):
        pass  # as Lightning does, that counts, and asks for no more
    assert first.state_dict()["served"] == len(first)
    resumed.load_state_dict(first.state_dict())
    first.sampler.set_epoch(1)
    assert rows(resumed) == rows(first)


def test_a_state_may_be_kept_and_loaded_twice():
    loader = TensorLoader((X, Y), batch_size=5)
    next(iter(loader))
    state = loader.state_dict()
    for _ in range(2):
        resumed = TensorLoader((X, Y), batch_size=5)
        resumed.load_state_dict(state)
        iter(resumed)  # asks for nothing yet
        assert rows(resumed) == rows(TensorLoader((X[5:], Y[5:]), batch_size=5))
        assert len(rows(resumed)) == 5


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 4}, "batch_size must be 5"),
        ({"seed": 9}, "seed must be 1"),
        ({"repeat": 2}, "repeat must be 1"),
        ({"dataset": (X[1:], Y[1:])}, "rows must be 23"),
    ],
)
def test_other_batches_than_the_unfinished_epoch_had_are_refused(options, name):
    given = {"dataset": (X, Y), "batch_size": 5, "shuffle": True, "seed": 1}
    loader = TensorLoader(**given)
    iterator = iter(loader)
    next(iterator)
    other = TensorLoader(**given | options)
    with pytest.raises(ValueError, match=name):
        other.load_state_dict(loader.state_dict())
    list(iterator)
    other.load_state_dict(loader.state_dict())  # of a whole epoch nothing is left that could differ
    assert len(list(other)) == len(other)


@pytest.mark.parametrize("taken", [1, 2, 5])
@pytest.mark.parametrize("after", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("before", [None, 1, 2, 4])
def test_a_state_counts_batches_so_that_other_blocks_may_follow(before, after, taken):
    first = TensorLoader((X, Y), batch_size=5, shuffle=True, seed=3, steps_per_call=before)
    resumed = TensorLoader((X, Y), batch_size=5, shuffle=True, seed=3, steps_per_call=after)
    batches = flat(first)
    seen = [next(batches)[1].tolist() for _ in range(taken)]
    assert first.state_dict()["served"] == taken
    resumed.load_state_dict(first.state_dict())
    assert resumed.resumed_at == taken
    if taken < 5:
        assert len(list(resumed)) == len(resumed) - resumed.calls_before(taken)
        resumed.load_state_dict(first.state_dict())
        assert seen + rows(resumed) == rows(TensorLoader((X, Y), batch_size=5, shuffle=True, seed=3))
    else:
        assert resumed.calls_before(taken) == len(resumed)
        assert sorted(y for batch in rows(resumed) for y in batch) == Y.tolist()


def test_a_state_of_version_0_1_0_counted_blocks():
    state = {"served": 2, "of": 3, "epoch": 0, "rows": M, "batch_size": 5, "steps_per_call": 2, "repeat": 1, "seed": 3}
    resumed = TensorLoader((X, Y), batch_size=5, shuffle=True, seed=3)
    resumed.load_state_dict(state)
    assert rows(resumed) == rows(TensorLoader((X, Y), batch_size=5, shuffle=True, seed=3))[4:]


def test_a_block_on_its_way_counts_what_was_taken_of_it():
    loader = TensorLoader((X, Y), batch_size=5, steps_per_call=3)
    block = next(iter(loader)).to(torch.device("meta"))
    batches = iter(block)
    next(batches)
    assert loader.served == 1
    assert len(list(batches)) == 2
    assert loader.served == 3


def test_lists_of_rows_for_predictions():
    loader = TensorLoader((X, Y), batch_sampler=[[3, 1], [2]], steps_per_call=4)
    assert [y.tolist() for _, y in loader] == [[3, 1], [2]]
    assert len(loader) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": (X, Y[1:])}, ValueError, r"dataset must be tensors of equal length, got \[23, 22\]"),
        ({"dataset": (X, [1, 2])}, TypeError, "dataset must be tensors with a row for each example, got Tensor, list"),
        ({"dataset": ()}, TypeError, "got none"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"steps_per_call": 0}, ValueError, "steps_per_call must be at least 1, got 0"),
        ({"repeat": 1.5}, TypeError, "repeat must be an integer, got 1.5"),
        ({"drop_last": True}, ValueError, "drop_last must be False, got True"),
        ({"shuffle": True, "sampler": SequentialSampler(X)}, ValueError, "shuffle must be False beside a sampler"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        TensorLoader(**{"dataset": (X, Y), **arguments})


def test_an_order_is_a_permutation():
    sampler = SeededSampler(Y, seed=5)
    assert sorted(sampler) == Y.tolist()
    assert list(sampler) == list(sampler) == sampler.permutation().tolist()


@pytest.mark.cuda
@pytest.mark.parametrize("steps_per_call", [None, 3])
def test_rows_on_a_gpu_come_without_waiting_for_it(steps_per_call):
    loader = TensorLoader((X.cuda(), Y.cuda()), batch_size=5, shuffle=True, steps_per_call=steps_per_call)
    iterator = iter(loader)
    first = next(iterator)  # the order of the epoch goes to the GPU
    torch.cuda.set_sync_debug_mode("error")
    try:
        rest = list(iterator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(x.is_cuda for x, _ in flat([first, *rest]))


@pytest.mark.cuda
def test_rows_in_main_memory_come_page_locked():
    assert all(x.is_pinned() for x, _ in TensorLoader((X, Y), batch_size=5, shuffle=True, pin_memory=True))
