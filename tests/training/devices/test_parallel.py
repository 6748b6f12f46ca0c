import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.data import Vocabulary
from deqjax.tasks.language import LanguageTask
from deqjax.tasks.language._batches import Segments
from deqjax.training import Batch, PenaltyConfig, ReplicaError
from deqjax.training._run import assemble
from deqjax.training.devices import _parallel
from deqjax.training.devices._parallel import DataParallel
from deqjax.training.step import SolveLimits
from tiny import tiny_config, with_parts


def batch(seed=0, rows=4):
    tokens = np.random.default_rng(seed).integers(0, 256, (rows, 9), np.int32)
    own = Segments(tokens, np.zeros(rows, bool), np.ones((rows, 8), bool))
    return Batch(own, np.ones(rows, bool))


RATES = {"*bias*": 0.5}


class Slower(LanguageTask):
    """With parameters that learn half as fast as the others."""

    def rates(self):
        return RATES


@functools.cache
def problem_and_state(penalty=0.5, probability=1.0, kind="deq_transformer", memory_length=0):
    config = with_parts(
        tiny_config("unused", steps=10, penalty=PenaltyConfig(penalty, probability)),
        task__network__kind=kind,
        task__network__shape__dropout=0.0,
        task__network__shape__memory_length=memory_length,
    )
    task = Slower(network=config.task.network, text=config.task.text)
    return assemble(config, task.opened({"vocabulary": Vocabulary.of_bytes().to_dict()}))


@functools.cache
def mapped(devices, **options):
    problem, state = problem_and_state(**options)
    return DataParallel(problem, 4, jax.local_devices()[:devices]), state


def run(devices, steps=3, **options):
    data_parallel, state = mapped(devices, **options)
    state = data_parallel.place(state)
    losses = []
    for step in range(steps):
        state, metrics, _ = data_parallel.train(state, batch(step))
        losses.append(float(_parallel.first_replica(metrics)["loss"]))
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
    for leaf in jax.tree.leaves(state.weights.parameters):
        copies = np.asarray(leaf)
        np.testing.assert_array_equal(copies, np.broadcast_to(copies[:1], copies.shape))


def test_step_counts():
    _, state = run(2)
    assert int(_parallel.first_replica(state).step) == 3


def test_state_given_away_cannot_be_used_again():
    data_parallel, state = mapped(1)
    replicated = data_parallel.place(state)
    data_parallel.train(replicated, batch())
    with pytest.raises(ReplicaError, match="given to an earlier step"):
        data_parallel.train(replicated, batch())


def test_state_that_is_not_replicated_is_refused():
    data_parallel, state = mapped(4)
    single = jax.tree.map(lambda x: x[None], state)
    with pytest.raises(ReplicaError, match="replicate the state first"):
        data_parallel.train(single, batch())


def test_batch_that_cannot_be_shared_is_refused():
    problem, _ = problem_and_state()
    with pytest.raises(ReplicaError, match=r"--batch_size 6 .* 4 devices"):
        DataParallel(problem, 6)


def test_probe_reports_the_backward_solve():
    data_parallel, state = mapped(2)
    _, metrics, _ = data_parallel.train(data_parallel.place(state), batch())
    metrics = _parallel.first_replica(metrics)
    assert 1 <= metrics["backward_steps"] <= 4
    assert metrics["backward_residual"] > 0
    assert metrics["backward_diverged"] == 0


def test_explicit_model_has_no_solves():
    data_parallel, state = mapped(1, kind="transformer_xl")
    _, metrics, _ = data_parallel.train(data_parallel.place(state), batch())
    assert "forward_steps" not in metrics
    assert "backward_steps" not in metrics
    assert np.isfinite(metrics["loss"]).all()


def test_evaluation_limits_are_run_time_values():
    data_parallel, state = mapped(2)
    parameters = data_parallel.place(state).weights
    few, _, _ = data_parallel.evaluate(parameters, batch(), None, SolveLimits(0.0, 2))
    many, _, _ = data_parallel.evaluate(parameters, batch(), None, SolveLimits(0.0, 5))
    few, many = _parallel.first_replica(few), _parallel.first_replica(many)
    assert (few["forward_steps"], many["forward_steps"]) == (2, 5)
    assert many["forward_residual"] < few["forward_residual"]


def test_radius_is_one_number_per_row():
    data_parallel, state = mapped(2)
    parameters = data_parallel.place(state).weights
    limits = SolveLimits(1e-3, 6)
    radius = data_parallel.radius(parameters, batch(), None, limits, jax.random.key(0))
    assert radius.shape == (4,)
    assert (radius > 0).all()


def test_first_replica_keeps_typed_keys():
    data_parallel, state = mapped(2)
    copy = _parallel.first_replica(data_parallel.place(state))
    assert jnp.issubdtype(copy.key.dtype, jax.dtypes.prng_key)
    assert (jax.random.key_data(copy.key) == jax.random.key_data(state.key)).all()


def test_rows_keep_their_memory_on_any_number_of_devices():
    one, two = (
        mapped(devices, penalty=0.0, memory_length=6)[0]
        .on_host(run(devices, penalty=0.0, memory_length=6)[1])
        .memory
        for devices in (1, 2)
    )
    assert one.states.shape == two.states.shape == (4, 6, 8)
    np.testing.assert_allclose(two.states, one.states, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(two.filled, [6, 6, 6, 6])


def test_placing_and_fetching_a_state_change_nothing():
    data_parallel, _ = mapped(2, penalty=0.0, memory_length=6)
    one, _ = mapped(1, penalty=0.0, memory_length=6)
    state = one.on_host(run(1, penalty=0.0, memory_length=6)[1])
    again = data_parallel.on_host(data_parallel.place(state))
    for a, b in zip(jax.tree.leaves(again.memory), jax.tree.leaves(state.memory), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_hands_its_memory_on():
    data_parallel, state = mapped(2, penalty=0.0, memory_length=6)
    placed, limits = data_parallel.place(state), SolveLimits(1e-4, 6)
    _, _, memory = data_parallel.evaluate(placed.weights, batch(), placed.memory, limits)
    with_it, _, _ = data_parallel.evaluate(placed.weights, batch(1), memory, limits)
    without, _, _ = data_parallel.evaluate(placed.weights, batch(1), placed.memory, limits)
    assert (memory.filled == 6).all()
    assert _parallel.first_replica(with_it)["loss"] != _parallel.first_replica(without)["loss"]
