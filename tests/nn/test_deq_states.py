"""Coupled states, graphs and aux through the layers of NNX and of Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deqjax as dq
import deqjax.linen
import deqjax.nn

NEIGHBOUR = np.array([1, 0, 3, 4, 2])  # two rings
IDS = np.array([0, 0, 1, 1, 1])
GAIN = 0.5
OPTIONS = {"has_aux": True, "tol": 1e-6, "max_steps": 60}


class NnxCell(nnx.Module):
    """Each node hears its neighbour, and tells what it heard."""

    def __init__(self):
        self.gain = nnx.Param(jnp.float32(GAIN))

    def __call__(self, z, u):
        heard = z[NEIGHBOUR]
        return self.gain[...] * heard + u, {"heard": heard}


class LinenCell(nn.Module):
    @nn.compact
    def __call__(self, z, u):
        heard = z[NEIGHBOUR]
        gain = self.param("gain", nn.initializers.constant(GAIN), ())
        return gain * heard + u, {"heard": heard}


def nnx_solve(u, segments, **options):
    return deqjax.nn.DEQ(NnxCell(), **options)(u, segments=segments)


def linen_solve(u, segments, **options):
    layer = deqjax.linen.DEQ(LinenCell(), **options)
    return layer.apply(layer.init(jax.random.key(0), u, segments=segments), u, segments=segments)


@pytest.mark.parametrize("solve", [nnx_solve, linen_solve], ids=["nnx", "linen"])
@pytest.mark.parametrize("samples", [1, 2], ids=["coupled", "graphs"])
def test_the_layer_solves_the_nodes_together_and_tells_what_they_heard(solve, samples):
    u = jax.random.normal(jax.random.key(1), (5, 2))
    truth = np.linalg.solve(np.eye(5) - GAIN * np.eye(5)[NEIGHBOUR], u)

    def total(u):
        segments = None if samples == 1 else IDS
        solution = solve(u, segments, coupled=samples == 1, debug=True, **OPTIONS)
        return jnp.sum(solution.aux["heard"]), solution

    slope, solution = jax.grad(total, has_aux=True)(u)
    np.testing.assert_allclose(solution.value, truth, rtol=0, atol=1e-4)
    np.testing.assert_allclose(solution.aux["heard"], truth[NEIGHBOUR], rtol=0, atol=1e-4)
    assert solution.stats.steps.shape == (samples,)
    # each node hears 1 / (1 - gain) times what goes in anywhere
    np.testing.assert_allclose(slope, 1 / (1 - GAIN), rtol=1e-3)


def test_debug_tells_that_a_layer_s_rows_are_coupled():
    with pytest.raises(dq.CoupledRowsError, match="give coupled=True"):
        nnx_solve(jnp.ones((5, 2)), None, debug=True, **OPTIONS)


def test_the_penalty_leaves_out_what_a_frozen_cell_returns_besides():
    u = jnp.ones((5, 2))
    f = deqjax.nn.DEQ(NnxCell(), has_aux=True).freeze(u)
    key = jax.random.key(0)
    penalty = dq.jacobian_penalty(
        f, u, u, key=key, samples=2, distribution="rademacher", has_aux=True
    )
    np.testing.assert_allclose(penalty, GAIN**2, rtol=1e-6)
