"""The DEQ-TrellisNet: its cell and its dropout; the rest is in test_equilibrium_models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    LENGTH,
    SETTINGS,
    SHAPE,
    WIDTH,
    make,
    tokens,
)

from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import LanguageShape
from deqjax.models._trellisnet_lm import DEQTrellisNetLM, TrellisNetCell, TrellisNetState

DROPOUT_SHAPE = dataclasses.replace(SHAPE, dropout=0.5)


# the cell


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def given(width=WIDTH):
    """z, the injection, and the memory before, which the second row has not."""
    z = TrellisNetState(*(random(BATCH, LENGTH, width, seed=seed) for seed in (0, 1)))
    states = jnp.asarray(random(BATCH, 1, 2 * width, seed=2))
    memory = SegmentMemory(states, None, jnp.array([1, 0], jnp.int32))
    return z, random(BATCH, LENGTH, 4 * width, seed=3), memory


def random_cell(**changes):
    cell = TrellisNetCell(dataclasses.replace(SHAPE, **changes), rngs=nnx.Rngs(0))
    cell.kernel.kernel[...] = jnp.asarray(random(2 * WIDTH, 4 * WIDTH, seed=4))
    if cell.kernel.gain is not None:
        cell.kernel.gain[...] = jnp.asarray(random(4 * WIDTH, seed=5))
    return cell


@nnx.jit
def apply(cell, z, injection, memory):
    u = cell.prepare(jnp.asarray(injection), memory)
    return cell(z, u), u.mask


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolution_weight(weight):
    """(outputs, inputs, 2), normalized over all axes but the first."""
    v = np.stack(np.split(np.asarray(weight.kernel[...]).T, 2, axis=1), axis=2)
    if weight.gain is None:
        return v
    norms = np.array([np.sqrt((row**2).sum()) for row in v])
    return v * (np.asarray(weight.gain[...]) / norms)[:, None, None]


def cell_in_loops(cell, z, injection, memory, mask):
    """One row and one position at a time."""
    w = convolution_weight(cell.kernel)
    c_new, h_new = np.zeros(z.c.shape), np.zeros(z.h.shape)
    for row, t in np.ndindex(BATCH, LENGTH):
        if t > 0:
            c_before, h_before = z.c[row, t - 1], z.h[row, t - 1]
        elif memory.filled[row]:
            c_before, h_before = np.split(np.asarray(memory.states)[row, -1], 2)
        else:
            c_before = h_before = np.zeros(WIDTH)
        a = w[..., 0] @ (mask[row] * h_before) + w[..., 1] @ (mask[row] * z.h[row, t])
        i, o, g, f = np.split(a + injection[row, t], 4)
        c_new[row, t] = sigmoid(f) * c_before + sigmoid(i) * np.tanh(g)
        h_new[row, t] = sigmoid(o) * np.tanh(c_new[row, t])
    return c_new, h_new


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_the_cell_is_its_formula(weight_norm, dropout):
    cell = random_cell(weight_norm=weight_norm, dropout=dropout)
    result, mask = apply(cell, *given())
    mask = np.ones((BATCH, WIDTH)) if mask is None else np.asarray(mask)[:, 0]
    assert set(np.unique(mask)) == ({0, 2} if dropout else {1})
    c, h = cell_in_loops(cell, *given(), mask)
    np.testing.assert_allclose(result.c, c, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.h, h, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", range(LENGTH))
def test_a_position_of_the_cell_sees_itself_and_the_one_before(position):
    cell, (z, u, memory) = random_cell(), given()
    other = TrellisNetState(z.c.copy(), z.h.copy())
    other.c[:, position] += 1
    other.h[:, position] += 1
    one, moved = apply(cell, z, u, memory)[0], apply(cell, other, u, memory)[0]
    change = np.abs(one.h - moved.h).max(axis=(0, 2))
    seen = [position, min(position + 1, LENGTH - 1)]
    assert (change[seen] > 0).all()
    assert (np.delete(change, seen) == 0).all()


def test_only_the_last_position_of_a_longer_memory_is_read():
    cell, (z, u, memory) = random_cell(), given()
    longer = memory._replace(states=jnp.concatenate([7 + memory.states, memory.states], axis=1))
    np.testing.assert_array_equal(apply(cell, z, u, longer)[0].h, apply(cell, z, u, memory)[0].h)


# dropout


def test_one_mask_is_held_for_all_positions_and_none_in_evaluation():
    model = make("trellisnet", DROPOUT_SHAPE)

    @nnx.jit
    def mask(model):
        return model.inputs(tokens(), model.initial_memory(BATCH)).mask

    held = mask(model)
    assert held.shape == (BATCH, 1, WIDTH)
    np.testing.assert_allclose(np.unique(held), [0, 2])
    model.eval()
    assert mask(model) is None


# sizes


def test_a_plain_language_shape_is_enough():
    shape = LanguageShape(vocabulary=7, width=4)
    model = DEQTrellisNetLM(shape, SETTINGS, rngs=nnx.Rngs(0))
    memory = model.initial_memory(3)
    assert memory.states.shape == (3, 0, 8)
    prediction = jax.eval_shape(
        lambda tokens: model(tokens)[::2], jax.ShapeDtypeStruct((3, 9), jnp.int32)
    )
    assert prediction[0].shape == (3, 9, 4)
    assert prediction[1].states.shape == (3, 0, 8)


def test_a_dropout_rate_above_one_is_refused():
    with pytest.raises(ValueError, match=r"dropout rate must lie in \[0, 1\), got 1.5"):
        make("trellisnet", dataclasses.replace(SHAPE, dropout=1.5))
