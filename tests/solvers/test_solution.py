import jax.numpy as jnp
import pytest

from deqjax import Status
from deqjax.solvers import picard


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_sentence(status):
    assert len(status.sentence.split()) >= 4


@pytest.mark.parametrize(
    ("f", "status"),
    [
        (lambda z: 0.5 * z, Status.CONVERGED),
        (lambda z: 1 - z, Status.STEP_LIMIT),
        (lambda z: z * jnp.nan, Status.DIVERGED),
    ],
)
def test_a_solver_says_how_each_sample_ended(f, status):
    stats = picard(f, jnp.zeros((2, 1)), tol=1e-3, max_steps=3).stats
    assert (stats.status == status).all()
