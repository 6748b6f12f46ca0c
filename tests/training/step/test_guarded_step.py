"""A step whose numbers are not finite changes nothing, on every replica alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from deqjax.training import PenaltyConfig
from deqjax.training.devices import _parallel
from deqjax.training.devices._parallel import DataParallel

WHOLE = {"normalized": True, "average_decay": 0.5}  # with all that a step may change
GOOD = toy.batch()
NAN_POINT = toy.spoiled(GOOD, "points", np.nan)


def learned(state):
    """What a step that is left out must not change."""
    return state.weights, state.optimizer, state.average


def kinds_changed(before, after):
    names = ("parameters", "statistics", "optimizer", "average")
    old, new = ((*state.weights, state.optimizer, state.average) for state in (before, after))
    kinds = zip(names, old, new, strict=True)
    return [name for name, a, b in kinds if toy.bits(a) != toy.bits(b)]


def test_a_good_step_changes_all_there_is():
    (before, after), (metrics,) = toy.run([GOOD], **WHOLE)
    assert kinds_changed(before, after) == ["parameters", "statistics", "optimizer", "average"]
    assert metrics["skipped"] == 0
    assert (after.memory.filled == 1).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("points", np.nan), ("points", np.inf), ("answers", np.nan), ("answers", 1e30)],
)
def test_a_bad_batch_changes_nothing_but_the_counts(field, value):
    states, history = toy.run([GOOD, toy.spoiled(GOOD, field, value)], **WHOLE)
    _, before, after = states
    assert kinds_changed(before, after) == []
    assert history[1]["skipped"] == 1
    assert after.step == 2
    assert after.skips == (1, 1)
    assert toy.bits(jax.random.key_data(after.key)) == toy.bits(jax.random.key_data(before.key))


def test_memory_of_rows_that_were_not_learned_from_is_emptied():
    (_, before, after), _ = toy.run([GOOD, NAN_POINT], **WHOLE)
    assert np.any(before.memory.states)
    assert not np.any(after.memory.states)
    assert not np.any(after.memory.filled)


def test_skips_are_counted_in_all_and_in_a_row():
    states, history = toy.run([GOOD, NAN_POINT, NAN_POINT, GOOD, NAN_POINT], **WHOLE)
    assert [(int(s.skips.total), int(s.skips.in_a_row)) for s in states] == [
        (0, 0),
        (0, 0),
        (1, 1),
        (2, 2),
        (2, 0),
        (3, 1),
    ]
    assert [metrics["skipped"] for metrics in history] == [0, 1, 1, 0, 1]


def test_the_step_after_a_bad_one_is_as_if_that_had_not_been():
    (*_, with_it), _ = toy.run([NAN_POINT, GOOD], pretraining=True)
    (*_, without), _ = toy.run([GOOD], pretraining=True)
    assert toy.bits(learned(with_it)) == toy.bits(learned(without))


def test_parameters_that_are_not_finite_stay_as_they_are():
    _, state = toy.problem_and_state(**WHOLE)
    parameters = jax.tree.map(lambda leaf: leaf.at[..., 0].set(jnp.nan), state.weights.parameters)
    state = state._replace(weights=state.weights._replace(parameters=parameters))
    after, metrics, control = toy.stepper(**WHOLE)(state, GOOD)
    assert toy.bits(learned(after)) == toy.bits(learned(state))
    assert metrics["skipped"] == 1
    assert control.skips_in_a_row == 1


def test_an_infinite_gradient_of_a_finite_loss_is_left_out():
    penalty = PenaltyConfig(probability=1.0, pretrain_weight=np.inf)
    (before, after), (metrics,) = toy.run([GOOD], penalty=penalty, pretraining=True)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1
    assert toy.bits(learned(after)) == toy.bits(learned(before))


# hashable, since problems are cached
ENDLESS = optax.sgd(lambda count: jnp.where(count == 1, jnp.nan, 0.05))


def test_an_update_that_is_not_finite_is_left_out_though_its_gradient_is():
    states, history = toy.run([GOOD, GOOD], optimizer=ENDLESS, pretraining=True)
    assert np.isfinite(history[1]["gradient_norm"])
    assert [metrics["skipped"] for metrics in history] == [0, 1]
    assert toy.bits(learned(states[2])) == toy.bits(learned(states[1]))


EXPLOSIVE = toy.spoiled(GOOD, "points", 1e4)


def test_a_sample_that_diverges_is_flagged_and_the_update_is_made():
    (before, after), (metrics,) = toy.run([EXPLOSIVE])
    assert metrics["forward_diverged"] == 0.25
    assert metrics["forward_converged"] == 0.75
    assert metrics["skipped"] == 0
    assert np.isfinite(metrics["gradient_norm"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.weights))
    assert toy.bits(after.weights) != toy.bits(before.weights)


def test_a_sample_that_diverges_leaves_the_gradient_of_the_others_alone():
    # its own targets do not count: what the step learns is of the others
    batches = [toy.unscored(each, row=1) for each in (GOOD, EXPLOSIVE)]
    ((_, expected), _), ((_, found), _) = (toy.run([each]) for each in batches)
    assert toy.bits(found.weights) == toy.bits(expected.weights)


@functools.cache
def on_two_devices():
    problem, state = toy.problem_and_state(average_decay=0.5)
    traces = []

    def loss(*given):
        traces.append(1)
        return toy.loss(*given)

    problem = problem._replace(loss=loss)
    return DataParallel(problem, 4, jax.local_devices()[:2]), state, traces


@pytest.mark.parametrize("row", [0, 1])  # rows are dealt out in turn: of the first, of the second
def test_all_replicas_leave_the_step_out_that_is_bad_on_one(row):
    steps, state, _ = on_two_devices()
    before, _, _ = steps.train(steps.place(state), GOOD)
    kept = jax.tree.map(np.asarray, learned(before))
    after, metrics, control = steps.train(before, toy.spoiled(GOOD, "points", np.nan, row))
    assert toy.bits(learned(after)) == toy.bits(kept)
    assert steps.differing(after) == 0
    np.testing.assert_array_equal(metrics["skipped"], [1, 1])
    np.testing.assert_array_equal(control.skips_in_a_row, [1, 1])
    assert not np.any(after.memory.filled)


def test_two_replicas_learn_from_good_batches():
    steps, state, _ = on_two_devices()
    after, metrics, control = steps.train(steps.place(state), GOOD)
    np.testing.assert_array_equal(metrics["skipped"], [0, 0])
    np.testing.assert_array_equal(control.skips_in_a_row, [0, 0])
    assert steps.differing(after) == 0
    assert toy.bits(_parallel.first_replica(after.weights)) != toy.bits(state.weights)


def test_one_compilation_serves_good_and_bad_steps():
    steps, state, traces = on_two_devices()
    state, _, _ = steps.train(steps.place(state), GOOD)
    compiled = len(traces)
    for each in (GOOD, NAN_POINT, GOOD):
        state, _, _ = steps.train(state, each)
    assert compiled > 0
    assert len(traces) == compiled
