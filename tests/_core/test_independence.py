"""The debug check: does a sample of f depend on another one?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROWS = "rows depend on each other, but each is solved as a sample of its own"
GRAPHS = "graphs depend on each other, but each is solved as a sample of its own"
CHAIN = jnp.asarray(np.diag(np.ones(5), -1) * 0.9, jnp.float32)


def chain(z):
    return jnp.tanh(CHAIN @ z) + 1


def batch_normalized(z):
    return {"a": 0.5 * z["a"], "b": 0.5 * (z["b"] - jnp.mean(z["b"], axis=0, keepdims=True)) + 1}


def gated_by_the_mean(z):
    """Shows nothing at zero, where everybody starts, nor at f(0) of a single row."""
    return 0.1 * z * jnp.mean(z, axis=0, keepdims=True) + 1


def apart(z):
    return jax.tree.map(lambda x: jnp.tanh(0.5 * x) + 1, z)


def solve(f, z0, **options):
    return dq.fixed_point(f, z0, solver=picard, max_steps=2, debug=True, **options).value


def two_leaves():
    return {"a": jnp.zeros((4, 2)), "b": jnp.zeros((4, 3))}


@pytest.mark.parametrize(
    ("f", "z0"),
    [
        (chain, jnp.zeros((6, 2))),
        (batch_normalized, two_leaves()),
        (gated_by_the_mean, jnp.zeros((2, 2))),
        (lambda z: 0.5 * z[::-1], jnp.zeros((3, 1), jnp.bfloat16)),
        (lambda z: z @ jnp.eye(3, dtype=jnp.complex64) + 0.1 * z[:1], jnp.ones((4, 3), complex)),
    ],
    ids=["chain", "batch norm", "products", "bfloat16", "complex"],
)
def test_rows_that_depend_on_each_other_are_reported(f, z0):
    z0 = jax.tree.map(lambda x: x.astype("complex64") if x.dtype == complex else x, z0)
    with pytest.raises(dq.CoupledRowsError, match=ROWS):
        solve(f, z0)


def test_the_report_names_rows_and_the_way_out():
    with pytest.raises(dq.CoupledRowsError) as caught:
        solve(chain, jnp.zeros((6, 2)))
    for words in (
        "coupled=True",
        "segments=",
        "normalize per sample",
        "of f's rows 2, 4, 5 changed",
    ):
        assert words in str(caught.value)


def run_to_the_end(function, z0):
    """Evaluate it, its callbacks included."""
    jax.block_until_ready(function(z0))
    jax.effects_barrier()


def test_it_is_reported_under_jit():
    with pytest.raises(jax.errors.JaxRuntimeError, match=ROWS):
        run_to_the_end(jax.jit(lambda z: solve(chain, z)), jnp.zeros((6, 2)))


@pytest.mark.parametrize(
    ("f", "z0", "options"),
    [
        (apart, two_leaves(), {}),
        (apart, {"a": jnp.full((4, 8), 1e4, jnp.float16)}, {}),
        (lambda z: z / 0, jnp.ones((4, 2)), {}),
        (chain, jnp.zeros((6, 2)), {"coupled": True}),
        (apart, jnp.zeros((1, 3)), {}),
    ],
    ids=["apart", "float16", "infinite", "coupled", "one row"],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_is_solved_as_it_should_be_passes(f, z0, options, wrap):
    run_to_the_end(wrap(lambda z: solve(f, z, **options)), z0)


def test_graphs_are_perturbed_as_wholes():
    ids = np.array([0, 0, 0, 1, 1, 1])
    cut = CHAIN.at[3, 2].set(0)
    solve(lambda z: jnp.tanh(cut @ z) + 1, jnp.zeros((6, 2)), segments=ids)
    with pytest.raises(dq.CoupledRowsError, match=GRAPHS):
        solve(chain, jnp.zeros((6, 2)), segments=ids)
