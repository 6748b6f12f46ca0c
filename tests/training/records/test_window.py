"""The metrics between two records, and what becomes of them."""

import json
import math

import jax.numpy as jnp
import pytest

from deqjax.training.records._window import Window


def step(loss=1.0, **others):
    return {"loss": loss, "skipped": 0.0, **others}


def added(*steps):
    """A window with some steps' metrics, as arrays of one replica."""
    window = Window()
    for values in steps:
        window.add({name: jnp.float32([value]) for name, value in values.items()})
    return window


def test_values_are_means_over_the_steps():
    assert added(step(1.0), step(2.0), step(6.0)).averaged() == {"loss": 3.0, "skipped": 0.0}


def test_steps_that_were_left_out_are_counted_and_not_averaged():
    window = added(step(1.0), step(math.nan, skipped=1.0), step(3.0), step(9.0, skipped=1.0))
    assert window.averaged() == {"loss": 2.0, "skipped": 2.0}


def test_a_window_of_nothing_but_bad_steps_shows_them():
    averages = added(step(math.nan, skipped=1.0), step(2.0, skipped=1.0)).averaged()
    assert math.isnan(averages["loss"])
    assert averages["skipped"] == 2.0


def test_largest_values_are_maximized():
    averages = added(step(forward_steps_max=3.0), step(forward_steps_max=5.0)).averaged()
    assert averages["forward_steps_max"] == 5.0


def test_steps_without_a_penalty_do_not_count_in_it():
    steps = (step(penalty=math.nan), step(penalty=2.0), step(penalty=4.0))
    assert added(*steps).averaged()["penalty"] == 3.0


@pytest.mark.parametrize("name", ["penalty", "backward_steps", "backward_steps_max"])
def test_what_no_step_had_is_left_out(name):
    assert name not in added(step(**{name: math.nan}), step(**{name: math.nan})).averaged()


def test_nan_elsewhere_shows():
    assert math.isnan(added(step(), step(math.nan)).averaged()["loss"])


def test_metrics_of_some_steps_alone_are_averaged_over_these():
    """As when the warm-up stage ends within a window."""
    assert added(step(), step(forward_steps=4.0)).averaged()["forward_steps"] == 4.0


def test_a_stored_window_goes_on_exactly():
    first = [step(0.1, penalty=math.nan, forward_steps_max=7.0), step(math.inf, skipped=1.0)]
    second = [step(0.7, penalty=0.3, forward_steps_max=2.0)]
    whole = added(*first, *second)
    stored = json.dumps(added(*first).values())
    resumed = Window(json.loads(stored))
    for values in second:
        resumed.add({name: jnp.float32([value]) for name, value in values.items()})
    assert len(resumed) == len(whole) == 3
    assert repr(resumed.values()) == repr(whole.values())
    assert resumed.averaged() == whole.averaged()


def test_a_stored_window_is_not_changed_by_what_follows():
    values = added(step(1.0)).values()
    stored = json.dumps(values)
    resumed = Window(values)
    resumed.add({"loss": jnp.float32([2.0]), "skipped": jnp.float32([0.0])})
    resumed.values()
    assert json.dumps(values) == stored


def test_only_one_replica_is_looked_at():
    window = Window()
    window.add({"loss": jnp.float32([1.0, 5.0]), "skipped": jnp.float32([0.0, 0.0])})
    assert window.averaged()["loss"] == 1.0
