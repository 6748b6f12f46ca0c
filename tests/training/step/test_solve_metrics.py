"""What solves report, as scalars; layers without a backward solve are left out of its own."""

import jax.numpy as jnp
import numpy as np

from deqjax import Status
from deqjax.adjoints import BackwardStats
from deqjax.training.step._solve_metrics import backward_metrics


def report(steps, residual, *statuses):
    shape = (len(statuses),)
    status = jnp.array(statuses, jnp.float32)
    return BackwardStats(jnp.full(shape, float(steps)), jnp.full(shape, residual), status)


SOLVED = report(6, 1e-3, Status.CONVERGED, Status.CONVERGED, Status.STEP_LIMIT, Status.DIVERGED)
FREE = report(0, 0.5, Status.NOT_RUN, Status.NOT_RUN)


def test_a_layer_without_a_backward_solve_is_left_out():
    both, alone = backward_metrics([FREE, SOLVED]), backward_metrics([SOLVED])
    assert float(both["backward_converged"]) == 0.5
    assert float(both["backward_diverged"]) == 0.25
    assert (float(both["backward_steps"]), float(both["backward_steps_max"])) == (6.0, 6.0)
    assert {name: float(each) for name, each in both.items()} == {
        name: float(each) for name, each in alone.items()
    }


def test_nothing_is_told_where_no_backward_solve_ran():
    assert np.isnan(list(backward_metrics([FREE]).values())).all()
    assert backward_metrics([]) == {}
