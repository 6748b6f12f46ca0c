"""A batch that is worked off in parts teaches what the whole batch teaches."""

import functools

import jax
import numpy as np
import optax
import pytest
import toy

from deqjax.training import ConfigError, PenaltyConfig, ReplicaError
from deqjax.training._config import check
from deqjax.training.devices import _parallel
from deqjax.training.devices._parallel import DataParallel
from tiny import tiny_config

# targets that count: of the rows 3, 1, 1, 2, so that no two parts and no two devices have as many
UNEVEN = functools.reduce(
    lambda batch, row: toy.unscored(batch, *row), [(1, 1), (2, 1), (3, 2)], toy.batch()
)
# steps are gradients
DESCENT = optax.sgd(1.0)


@functools.cache
def taken(parts):
    """The state before and after two steps, and the metrics of the second."""
    states, history = toy.run([UNEVEN, UNEVEN], micro_batches=parts, optimizer=DESCENT)
    return states[0], states[-1], history[-1]


@pytest.fixture(scope="module", params=[2, 4])
def both(request):
    return taken(1), taken(request.param)


def test_parameters_move_as_by_the_whole_batch(both):
    (before, whole, _), (_, parts, _) = both
    for old, expected, found in zip(
        *(jax.tree.leaves(state.weights) for state in (before, whole, parts)), strict=True
    ):
        assert np.any(expected != old)
        np.testing.assert_allclose(found - old, expected - old, rtol=1e-4, atol=1e-6)


def test_metrics_are_those_of_the_whole_batch(both):
    (_, _, expected), (_, _, found) = both
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # the backward solves' residuals are differences of near equals
        rtol = 1e-2 if name.endswith("_residual") else 1e-5
        np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


def test_rows_need_different_numbers_of_steps():
    """Or the largest could not be told from the mean."""
    _, _, metrics = taken(2)
    assert metrics["forward_steps_max"] > metrics["forward_steps"] + 0.2


def test_rows_keep_the_order_of_their_memory(both):
    (_, whole, _), (_, parts, _) = both
    states = np.asarray(whole.memory.states)
    assert len(np.unique(states.round(4), axis=0)) == len(states)
    np.testing.assert_allclose(parts.memory.states, states, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(parts.memory.filled, [2, 2, 2, 2])


def test_parts_on_two_devices_teach_the_same():
    problem, state = toy.problem_and_state(micro_batches=2, optimizer=DESCENT)
    steps = DataParallel(problem, 4, jax.local_devices()[:2])
    placed = steps.place(state)
    for _ in range(2):
        placed, metrics, _ = steps.train(placed, UNEVEN)
    _, whole, expected = taken(1)
    found = steps.on_host(placed)
    for a, b in zip(
        jax.tree.leaves((found.weights, found.memory)),
        jax.tree.leaves((whole.weights, whole.memory)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for name in ("loss", "near", "forward_steps", "forward_steps_max"):
        value = _parallel.first_replica(metrics)[name]
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_parts_have_dropout_masks_of_their_own():
    rows = [0, 1, 0, 1]  # both parts see the same
    equal = jax.tree.map(lambda leaf: leaf[rows], toy.batch())
    (_, after), _ = toy.run([equal], micro_batches=2, dropout=0.5, pretraining=True)
    states = np.asarray(after.memory.states[:, -1])
    assert len(np.unique(states, axis=0)) == len(states)


def test_parts_together_are_penalized_as_the_whole_batch():
    # so strongly that nothing else counts, at so many probes that the penalty is hardly random
    penalty = PenaltyConfig(probability=1.0, pretrain_weight=1e4, samples=200)
    norms = [
        toy.run([toy.batch()], micro_batches=parts, penalty=penalty, pretraining=True)[1][0]
        for parts in (1, 2)
    ]
    assert norms[1]["gradient_norm"] == pytest.approx(norms[0]["gradient_norm"], rel=0.1)


def test_a_part_that_is_not_finite_spoils_the_step():
    spoiled = toy.spoiled(UNEVEN, "points", np.nan, row=3)
    (before, after), (metrics,) = toy.run([spoiled], micro_batches=2, optimizer=DESCENT)
    assert metrics["skipped"] == 1
    assert toy.bits(after.weights) == toy.bits(before.weights)


def test_a_batch_without_equal_parts_is_refused(tmp_path):
    sentence = r"--batch_size 4 cannot be worked off in --micro_batches 3 equal parts"
    with pytest.raises(ConfigError, match=sentence):
        check(tiny_config(tmp_path, micro_batches=3))


def test_devices_without_equal_parts_are_refused():
    problem, _ = toy.problem_and_state(micro_batches=2, optimizer=DESCENT)
    sentence = r"--batch_size 6 .* 2 devices in 2 part\(s\) each; choose a multiple of 4"
    with pytest.raises(ReplicaError, match=sentence):
        DataParallel(problem, 6, jax.local_devices()[:2])
