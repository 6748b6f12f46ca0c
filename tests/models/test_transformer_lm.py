"""The DEQ-Transformer: its cell and its dropout; the rest is in test_equilibrium_models."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    HIDDEN,
    LENGTH,
    SHAPE,
    VOCABULARY,
    WIDTH,
    make,
    tokens,
)
from transformer_oracle import attention, feed_forward, layer_norm

from deqjax.models._transformer_layer import layer_norm as layer_norm_of_the_layer
from deqjax.models._transformer_lm import TransformerCell

MEMORY, HORIZON = 3, 5
DROPOUT_SHAPE = dataclasses.replace(SHAPE, dropout=0.5, attention_dropout=0.5)
FILLED = [MEMORY, 1]


# the cell


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_cell(**changes):
    """A cell whose biases and gains are not at their simple start."""
    shape = dataclasses.replace(SHAPE, horizon=HORIZON, **changes)
    cell = TransformerCell(shape, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(5)
    state = nnx.state(cell, nnx.Param)
    nnx.update(cell, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state))
    return cell


def cell_inputs(parts=4):
    """z, the injection, and a memory of states and injection."""
    return (
        random(BATCH, LENGTH, WIDTH),
        random(BATCH, LENGTH, parts * WIDTH, seed=1),
        random(BATCH, MEMORY, WIDTH, seed=2),
        random(BATCH, MEMORY, 3 * WIDTH, seed=3),
    )


@nnx.jit
def apply(cell, z, injection, memory_states, memory_injection):
    filled = jnp.array(FILLED)
    return cell(z, cell.prepare(injection, memory_states, memory_injection, filled, LENGTH))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pre", [True, False])
def test_the_cell_is_its_formula(pre, residual):
    cell = random_cell(pre_layer_norm=pre, residual_injection=residual)
    z, u, z_memory, u_memory = given = cell_inputs(parts=4 if residual else 3)
    c = np.concatenate([z_memory, z], axis=1)
    injection = np.concatenate([u_memory, u[..., : 3 * WIDTH]], axis=1)
    c = layer_norm(c) if pre else c
    h = z + attention(cell, c, injection, MEMORY, FILLED, HORIZON)
    h = layer_norm(h + u[..., 3 * WIDTH :] if residual else h)
    expected = h + feed_forward(cell, h)
    expected = expected if pre else layer_norm(expected)
    np.testing.assert_allclose(apply(cell, *given), expected, rtol=1e-3, atol=1e-4)


def test_layer_norm_normalizes_and_keeps_the_dtype():
    x = jnp.asarray(3 + 2 * random(BATCH, LENGTH, 16))
    result = layer_norm_of_the_layer(x)
    np.testing.assert_allclose(result.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(result.var(-1), 1, atol=1e-3)
    assert layer_norm_of_the_layer(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("position", range(LENGTH))
def test_a_position_of_the_cell_sees_none_after_it(position):
    cell, (z, u, *memory) = random_cell(), cell_inputs()
    other = z.copy(), u.copy()
    other[0][:, position, 0] += 1
    other[1][:, position] -= 1
    change = np.abs(apply(cell, z, u, *memory) - apply(cell, *other, *memory))
    assert (change[:, :position] == 0).all()
    assert (change[:, position:].max(axis=(0, 2)) > 0).all()


# dropout


@nnx.jit
def embedded_and_prepared(model):
    return model.embed(tokens()), model.inputs(tokens(), model.initial_memory(BATCH))


@cache
def in_training_and_evaluation():
    model = make("transformer", DROPOUT_SHAPE)
    training = embedded_and_prepared(model)
    model.eval()
    return training, embedded_and_prepared(model)


def test_one_mask_is_held_for_all_positions():
    (_, inputs), _ = in_training_and_evaluation()
    for mask, width in ((inputs.out_mask, WIDTH), (inputs.down_mask, WIDTH)):
        assert mask.shape == (BATCH, 1, width)
        np.testing.assert_allclose(np.unique(mask), [0, 2])
    assert inputs.hidden_mask.shape == (BATCH, 1, HIDDEN)
    assert inputs.attention_mask.shape == (BATCH, SHAPE.heads, LENGTH, 2 * LENGTH)
    assert (inputs.out_mask != inputs.down_mask).any()


def test_the_embedding_is_dropped_alike_at_all_positions():
    (embedded, _), (whole, _) = in_training_and_evaluation()
    dropped = np.asarray(embedded == 0)
    assert 0 < dropped.mean() < 1
    assert (dropped == dropped[:, :1]).all()
    np.testing.assert_allclose(embedded, np.where(dropped, 0, 2 * whole), rtol=1e-6)


MASKS = {
    "out_mask": (BATCH, 1, WIDTH),
    "down_mask": (BATCH, 1, WIDTH),
    "hidden_mask": (BATCH, 1, HIDDEN),
    "attention_mask": (BATCH, SHAPE.heads, LENGTH, MEMORY + LENGTH),
}


@cache
def with_each_mask():
    """f(z) without a mask (None) and with each of them, which drops all of the first row."""
    z, u, *memory = cell_inputs()

    @nnx.jit
    def results(cell):
        inputs = cell.prepare(u, *memory, jnp.array(FILLED), LENGTH)
        masks = {name: jnp.zeros(shape).at[1:].set(1) for name, shape in MASKS.items()}
        each = {name: cell(z, inputs._replace(**{name: mask})) for name, mask in masks.items()}
        return cell(z, inputs), each

    return results(random_cell())


@pytest.mark.parametrize("name", MASKS)
def test_the_cell_applies_each_mask(name):
    without, each = with_each_mask()
    change = np.abs(each[name] - without)
    assert (change[0].max(axis=-1) > 1e-3).all()
    assert change[1:].max() < 1e-5


def test_nothing_is_dropped_in_evaluation():
    _, (_, inputs) = in_training_and_evaluation()
    assert [getattr(inputs, name) for name in MASKS] == [None] * 4


# what is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 3}, "width 8 must be a multiple of heads 3"),
        ({"heads": 0}, "width 8 must be a multiple of heads 0"),
        ({"dropout": 1.5}, r"dropout rate must lie in \[0, 1\), got 1.5"),
        ({"attention_dropout": 1.0}, r"dropout rate must lie in \[0, 1\), got 1.0"),
        ({"cutoffs": (VOCABULARY + 1,)}, "cutoffs"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("transformer", dataclasses.replace(SHAPE, **changes))
