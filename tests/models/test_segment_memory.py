"""What a segment hands on, alone and through each model that reads it."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    DEPTH,
    LENGTH,
    SHAPE,
    WIDTH,
    built,
    read,
    some_memory,
    tokens,
)

from deqjax.models._memory import SegmentMemory

KINDS = [
    "transformer",
    "transformer pre-LN",
    "trellisnet",
    "xl",
    "xl pre-LN",
]
each_kind = pytest.mark.parametrize("kind", KINDS)
TEXT = tokens(3, 2 * LENGTH)
FIRST, SECOND = TEXT[:, :LENGTH], TEXT[:, LENGTH:]


# the memory alone


def counted(length=3, filled=0):
    """States count up by position, from -3 to -1 in the memory."""
    states = jnp.broadcast_to(jnp.arange(-length, 0.0)[:, None], (BATCH, length, 1))
    return SegmentMemory(states, 10 * states, jnp.full(BATCH, filled, jnp.int32))


def segment(length):
    return jnp.broadcast_to(jnp.arange(float(length))[:, None], (BATCH, length, 1))


@pytest.mark.parametrize(
    ("length", "held", "filled"),
    [(1, [-2, -1, 0], 1), (2, [-1, 0, 1], 2), (3, [0, 1, 2], 3), (5, [2, 3, 4], 3)],
)
def test_the_last_positions_are_kept(length, held, filled):
    memory = counted().extended(segment(length), 10 * segment(length))
    for row in range(BATCH):
        np.testing.assert_array_equal(memory.states[row, :, 0], held)
        np.testing.assert_array_equal(memory.injection[row, :, 0], 10 * np.array(held))
    assert (memory.filled == filled).all()
    assert memory.filled.dtype == jnp.int32


def test_what_was_filled_stays_filled():
    memory = counted(filled=2).extended(segment(2), segment(2))
    assert (memory.filled == 3).all()


def test_a_memory_of_no_positions_stays_empty():
    memory = SegmentMemory(jnp.zeros((BATCH, 0, 1)), None, jnp.zeros(BATCH, jnp.int32))
    kept = memory.extended(segment(4))
    assert kept.states.shape == (BATCH, 0, 1)
    assert (kept.filled == 0).all()


def test_layers_before_the_positions_are_kept_apart():
    states = jnp.zeros((BATCH, 2, 3, 1))
    memory = SegmentMemory(states, None, jnp.zeros(BATCH, jnp.int32))
    kept = memory.extended(jnp.stack([segment(2), segment(2) + 5], axis=1))
    np.testing.assert_array_equal(kept.states[0, :, :, 0], [[0, 0, 1], [0, 5, 6]])


def test_a_memory_of_injections_asks_for_them():
    with pytest.raises(TypeError, match="holds injections; give those of the segment"):
        counted().extended(segment(2))


@pytest.mark.parametrize(("fresh", "filled"), [([True, False], [0, 2]), (True, [0, 0])])
def test_cleared_forgets_the_rows_that_are_fresh(fresh, filled):
    memory = counted(filled=2).cleared(jnp.array(fresh))
    np.testing.assert_array_equal(memory.filled, filled)


def test_no_gradient_flows_into_what_is_kept():
    def kept(states):
        memory = counted().extended(states, states)
        return jnp.sum(memory.states) + jnp.sum(memory.injection)

    assert (jax.grad(kept)(segment(3)) == 0).all()


# through the models


def empty(kind, capacity, shape=SHAPE):
    return nnx.merge(*built(kind, shape), copy=True).initial_memory(BATCH, capacity)


@cache
def at_once(kind, shape=SHAPE):
    """The states of the text read as one segment, without any memory."""
    return read(*built(kind, shape), TEXT, empty(kind, 0, shape))[0]


@cache
def memory_of_first(kind, capacity=LENGTH, shape=SHAPE):
    return read(*built(kind, shape), FIRST, empty(kind, capacity, shape))[1]


def second(kind, memory, shape=SHAPE):
    return read(*built(kind, shape), SECOND, memory)[0]


def difference(one, other):
    return float(jnp.abs(one - other).max())


@each_kind
def test_two_segments_are_one_long_segment(kind):
    first = read(*built(kind), FIRST, empty(kind, LENGTH))[0]
    both = jnp.concatenate([first, second(kind, memory_of_first(kind))], axis=1)
    np.testing.assert_allclose(both, at_once(kind), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("kind", "capacity"), [("transformer", 2), ("xl", 2), ("trellisnet", 0)])
def test_a_memory_that_is_too_short_changes_the_next_segment(kind, capacity):
    states = second(kind, memory_of_first(kind, capacity))
    assert difference(states, at_once(kind)[:, LENGTH:]) > 1e-3


@pytest.mark.parametrize("kind", ["transformer", "xl"])
def test_a_short_memory_is_enough_where_the_horizon_hides_the_rest(kind):
    shape = dataclasses.replace(SHAPE, horizon=3)
    states = second(kind, memory_of_first(kind, 2, shape), shape)
    np.testing.assert_allclose(states, at_once(kind, shape)[:, LENGTH:], rtol=0, atol=5e-5)
    assert difference(states, second(kind, memory_of_first(kind, 2))) > 1e-3


@each_kind
def test_a_cleared_row_is_a_first_segment_and_the_others_go_on(kind):
    memory = memory_of_first(kind)
    fresh, kept = second(kind, empty(kind, LENGTH)), second(kind, memory)
    mixed = second(kind, memory.cleared(jnp.array([True, False])))
    np.testing.assert_allclose(mixed[0], fresh[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(mixed[1], kept[1], rtol=0, atol=1e-5)
    assert difference(mixed[0], kept[0]) > 1e-3


@pytest.mark.parametrize("kind", ["transformer", "xl"])
def test_what_is_not_filled_is_not_seen(kind):
    memory = memory_of_first(kind)

    def padded(x):
        before = jnp.full((*x.shape[:-2], 2, x.shape[-1]), 7.0)
        return jnp.concatenate([before, x], axis=-2)

    longer = memory._replace(
        states=padded(memory.states),
        injection=None if memory.injection is None else padded(memory.injection),
    )
    np.testing.assert_allclose(second(kind, longer), second(kind, memory), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", range(DEPTH))
def test_every_layer_of_the_explicit_model_reads_a_memory_of_its_own(layer):
    memory = memory_of_first("xl")
    states = memory.states.at[:, layer].multiply(-1)
    assert difference(second("xl", memory._replace(states=states)), second("xl", memory)) > 1e-3


@pytest.mark.parametrize("kind", ["transformer", "trellisnet", "xl"])
def test_the_memory_holds_no_gradient(kind):
    """The embedding of tokens that only the segment before has gets none."""
    graph, parameters, rest = built(kind)
    # some layers stand for the solve: the memory is made of their result in the same way
    options = {} if kind == "xl" else {"layers": 2}

    @jax.jit
    def gradient(parameters):
        def loss(parameters):
            model = nnx.merge(graph, parameters, rest, copy=True)
            before = model(jnp.array([[0, 1, 2, 3]] * BATCH), **options).memory
            states = model(jnp.array([[4, 5, 6, 7]] * BATCH), before, **options).states
            return jnp.sum(jnp.sin(states))

        return jax.grad(loss)(parameters)

    rows = jnp.abs(gradient(parameters)["embedding"]["tables"][0][...]).max(axis=1)
    assert (rows[:4] == 0).all()
    assert (rows[4:8] > 1e-5).all()


@pytest.mark.parametrize("kind", ["transformer", "trellisnet", "xl"])
@pytest.mark.parametrize("capacity", [0, 3])
def test_an_initial_memory_holds_nothing_and_keeps_its_shapes(kind, capacity):
    graph, *states = built(kind)
    memory = empty(kind, capacity)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(memory))

    def after(memory):
        return nnx.merge(graph, *states, copy=True)(FIRST, memory).memory

    kept = jax.eval_shape(after, memory)
    assert jax.tree.structure(kept) == jax.tree.structure(memory)
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(memory), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


@each_kind
def test_the_memory_is_as_long_as_the_shape_says(kind):
    model = nnx.merge(*built(kind), copy=True)
    default, asked = model.initial_memory(BATCH), model.initial_memory(BATCH, LENGTH)
    assert jax.tree.map(jnp.shape, default) == jax.tree.map(jnp.shape, asked)


def test_a_random_memory_is_read():
    """The helper of the other files' tests is not an empty memory by mistake."""
    model = nnx.merge(*built("transformer"), copy=True)
    states = second("transformer", some_memory(model))
    assert difference(states, second("transformer", empty("transformer", LENGTH))) > 1e-3
    assert states.shape == (BATCH, LENGTH, WIDTH)
