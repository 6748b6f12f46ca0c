"""The debug check: a cell whose randomness NNX does not see has no fixed point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nn_cells import BATCH, TanhCell, injection

import deqjax as dq
from deqjax.nn import DEQ
from deqjax.solvers import picard

MESSAGE = "f is not deterministic across iterations: no fixed point exists"


class Jittery(nnx.Module):
    """Draws from Python's side, so each trace has noise of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __call__(self, z, u):
        return 0.5 * jnp.tanh(z) + u * self.generator.normal()


def test_randomness_in_python_is_reported():
    with pytest.raises(dq.NotDeterministicError, match=MESSAGE):
        DEQ(Jittery(), solver=picard, debug=True)(injection())


def test_randomness_in_python_is_reported_under_jit():
    deq = DEQ(Jittery(), solver=picard, debug=True)

    def run():
        jax.block_until_ready(jax.jit(lambda u: deq(u).value)(injection()))
        jax.effects_barrier()

    with pytest.raises(jax.errors.JaxRuntimeError, match=MESSAGE):
        run()


def test_without_debug_nothing_is_checked():
    assert DEQ(Jittery(), solver=picard)(injection()).value.shape[0] == BATCH


@pytest.mark.parametrize("transform", [lambda f: f, nnx.jit], ids=["eager", "jit"])
def test_dropout_passes(transform):
    deq = DEQ(TanhCell(scale=0.4, dropout=0.5), solver=picard, max_steps=100, debug=True)
    solution = transform(lambda deq, u: deq(u))(deq, injection())
    jax.effects_barrier()
    assert (solution.stats.status == dq.Status.CONVERGED).all()
