"""What a cell sows is captured once, at the solution, of the very map that was solved."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nn_cells import BATCH, WIDTH, TanhCell, injection

from deqjax.nn import DEQ, CellStateError
from deqjax.nn._freeze import streams
from deqjax.solvers import picard


class Sowing(nnx.Module):
    """Sows its mask, and what it is multiplied with."""

    def __init__(self):
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, z, u):
        mask = self.dropout(jnp.ones_like(u))
        self.sow(nnx.Intermediate, "mask", mask)
        self.sow(nnx.Intermediate, "state", z)
        return 0.25 * mask * jnp.tanh(z) + u


class Model(nnx.Module):
    def __init__(self):
        self.deq = DEQ(Sowing(), solver=picard, tol=1e-6, max_steps=60)

    def __call__(self, u):
        value = self.deq(u).value
        self.sow(nnx.Intermediate, "value", value)
        return value


def captured(model, u, **options):
    value, seen = nnx.capture(model, nnx.Intermediate, **options)(u)
    return np.asarray(value), nnx.to_pure_dict(seen)


def test_the_cell_is_captured_at_the_solution_with_the_masks_of_the_solve():
    u = injection()
    value, seen = captured(Model(), u)
    (mask,), (state,) = seen["deq"]["cell"]["mask"], seen["deq"]["cell"]["state"]
    np.testing.assert_array_equal(state, value)
    np.testing.assert_array_equal(seen["value"][0], value)
    assert set(np.unique(mask)) == {0, 2}
    np.testing.assert_allclose(0.25 * mask * jnp.tanh(value) + u, value, rtol=0, atol=1e-5)


def test_capturing_changes_neither_the_result_nor_the_next_masks():
    plain, watched = (DEQ(TanhCell(dropout=0.5), solver=picard) for _ in range(2))
    u = injection()
    solution, _ = nnx.capture(watched, nnx.Intermediate)(u)
    np.testing.assert_array_equal(solution.value, plain(u).value)
    np.testing.assert_array_equal(watched(u).value, plain(u).value)
    assert [int(stream.count[...]) for stream in streams(watched).values()] == [2]


def test_the_outputs_of_all_methods_are_captured():
    _, seen = captured(Model(), injection(), method_outputs=nnx.Intermediate)
    assert seen["deq"]["cell"]["__call__"][0].shape == (BATCH, WIDTH)
    assert seen["deq"]["cell"]["dropout"]["__call__"][0].shape == (BATCH, WIDTH)


def test_a_perturbation_of_the_cell_has_its_gradient():
    class Perturbed(nnx.Module):
        def __call__(self, z, u):
            return self.perturb("shift", 0.5 * z) + u

    layer = DEQ(Perturbed(), solver=picard, tol=1e-6, max_steps=60)
    u = injection()
    zeros = nnx.State({"cell": {"shift": nnx.Perturbation(jnp.zeros_like(u))}})

    def total(layer, zeros):
        return jnp.sum(nnx.capture(layer, nnx.Intermediate, init=zeros)(u)[0].value)

    gradient = nnx.grad(total, argnums=1)(layer, zeros)
    shift = nnx.to_pure_dict(gradient)["cell"]["shift"]
    np.testing.assert_allclose(shift, 2 * jnp.ones_like(u), rtol=1e-4)  # z* = 2 (u + shift)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_sowing_outside_of_a_capture_is_refused_with_the_way_out():
    with pytest.raises(CellStateError, match=r"sows its '(mask|state)' .* inside nnx\.capture"):
        DEQ(Sowing())(injection())
