import jax.numpy as jnp
import numpy as np
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


def test_names_of_an_array_of_statuses():
    statuses = jnp.array([[1, 2], [3, 4]], jnp.float32)  # as a probe reports them
    expected = [["CONVERGED", "STEP_LIMIT"], ["DIVERGED", "PRECISION_LOST"]]
    np.testing.assert_array_equal(Status.names(statuses), expected)


def test_a_single_status_is_read_from_an_array():
    assert Status(jnp.array(1)) is Status.CONVERGED
    assert Status(np.array([2.0])) is Status.STEP_LIMIT


def test_an_array_of_statuses_is_no_single_one():
    with pytest.raises(ValueError, match=r"shape \(2,\) is no single status: .*Status.names"):
        Status(jnp.array([1, 2]))
    with pytest.raises(ValueError, match="7 is not a valid Status"):
        Status(7)
