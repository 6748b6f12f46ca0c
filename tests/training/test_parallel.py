import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.training import ReplicaError, parallel
from deqjax.training.config import PenaltyConfig
from deqjax.training.language import build_model
from deqjax.training.parallel import DataParallel
from deqjax.training.schedules import learning_rate, optimizer
from deqjax.training.state import initial_state, split
from deqjax.training.step import Problem, SolveLimits
from tiny import tiny_config


def windows(seed=0, batch=4):
    return np.random.default_rng(seed).integers(0, 256, (batch, 9), np.int32)


@functools.cache
def problem_and_state(penalty=0.5, probability=1.0, kind="deq"):
    config = tiny_config("unused")
    shape = config.model.shape.__class__(length=8, width=8, heads=2, hidden=16, dropout=0.0)
    model_config = config.model.__class__(kind, 2, shape, config.model.solver)
    architecture, parameters = split(build_model(model_config, 0))
    update = optimizer(config.optimizer, 10)
    problem = Problem(
        architecture,
        update,
        learning_rate(config.optimizer, 10),
        PenaltyConfig(penalty, probability),
    )
    return problem, initial_state(parameters, update, jax.random.key(0))


@functools.cache
def mapped(devices, **options):
    problem, state = problem_and_state(**options)
    return DataParallel(problem, 4, jax.local_devices()[:devices]), state


def run(devices, steps=3, **options):
    data_parallel, state = mapped(devices, **options)
    state = data_parallel.replicate(state)
    losses = []
    for step in range(steps):
        state, metrics = data_parallel.train(state, windows(step))
        losses.append(float(parallel.first_replica(metrics)["loss"]))
    return losses, state


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_train_as_one(devices):
    # without penalty and dropout, whose random numbers differ by replica on purpose
    one, _ = run(1, penalty=0.0)
    several, _ = run(devices, penalty=0.0)
    np.testing.assert_allclose(several, one, rtol=1e-6)
    assert one[-1] != one[0]


def test_replicas_stay_equal():
    _, state = run(4)
    for leaf in jax.tree.leaves(state.parameters):
        copies = np.asarray(leaf)
        np.testing.assert_array_equal(copies, np.broadcast_to(copies[:1], copies.shape))


def test_step_counts():
    _, state = run(2)
    assert int(parallel.first_replica(state).step) == 3


def test_state_given_away_cannot_be_used_again():
    data_parallel, state = mapped(1)
    replicated = data_parallel.replicate(state)
    data_parallel.train(replicated, windows())
    with pytest.raises(ReplicaError, match="given to an earlier step"):
        data_parallel.train(replicated, windows())


def test_state_that_is_not_replicated_is_refused():
    data_parallel, state = mapped(4)
    single = jax.tree.map(lambda x: x[None], state)
    with pytest.raises(ReplicaError, match="replicate the state first"):
        data_parallel.train(single, windows())


def test_batch_that_cannot_be_shared_is_refused():
    problem, _ = problem_and_state()
    with pytest.raises(ReplicaError, match=r"--data.batch_size 6 .* 4 devices"):
        DataParallel(problem, 6)


def test_probe_reports_the_backward_solve():
    data_parallel, state = mapped(2)
    _, metrics = data_parallel.train(data_parallel.replicate(state), windows())
    metrics = parallel.first_replica(metrics)
    assert 1 <= metrics["backward_steps"] <= 4
    assert metrics["backward_residual"] > 0
    assert metrics["backward_diverged"] == 0


def test_explicit_model_has_no_solves():
    data_parallel, state = mapped(1, kind="explicit")
    _, metrics = data_parallel.train(data_parallel.replicate(state), windows())
    assert "forward_steps" not in metrics
    assert np.isnan(metrics["backward_steps"]).all()
    assert np.isfinite(metrics["loss"]).all()


def test_evaluation_limits_are_run_time_values():
    data_parallel, state = mapped(2)
    parameters = data_parallel.replicate(state).parameters
    few = data_parallel.evaluate(parameters, windows(), SolveLimits(0.0, 2))
    many = data_parallel.evaluate(parameters, windows(), SolveLimits(0.0, 5))
    few, many = parallel.first_replica(few), parallel.first_replica(many)
    assert (few["forward_steps"], many["forward_steps"]) == (2, 5)
    assert many["forward_residual"] < few["forward_residual"]


def test_radius_is_one_number_per_window():
    data_parallel, state = mapped(2)
    parameters = data_parallel.replicate(state).parameters
    radius = data_parallel.radius(parameters, windows(), SolveLimits(1e-3, 6), jax.random.key(0))
    assert radius.shape == (4,)
    assert (radius > 0).all()


def test_first_replica_keeps_typed_keys():
    data_parallel, state = mapped(2)
    copy = parallel.first_replica(data_parallel.replicate(state))
    assert jnp.issubdtype(copy.key.dtype, jax.dtypes.prng_key)
    assert (jax.random.key_data(copy.key) == jax.random.key_data(state.key)).all()
