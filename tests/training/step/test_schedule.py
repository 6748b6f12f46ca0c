"""Every schedule against its closed form, in float64."""

import math

import jax
import numpy as np
import pytest

from deqjax.training._options import OptimizerConfig
from deqjax.training.step._schedule import learning_rate

STEPS, WARMUP, PEAK, END = 100, 10, 0.4, 0.04
NAMES = ("cosine", "linear", "constant", "stable_decay", "inverse_square_root")


def schedule(name, steps=STEPS, **changes):
    options = {"warmup_steps": WARMUP, "final_fraction": 0.1, "decay_fraction": 0.25} | changes
    return learning_rate(OptimizerConfig(schedule=name, learning_rate=PEAK, **options), steps)


def falling(share):
    return PEAK + (END - PEAK) * share


CLOSED_FORMS = {
    "cosine": lambda t: END + (PEAK - END) * (1 + math.cos(math.pi * (t - 10) / 90)) / 2,
    "linear": lambda t: falling((t - 10) / 90),
    "constant": lambda t: PEAK,
    "stable_decay": lambda t: falling(max(t - 75, 0) / 25),
    "inverse_square_root": lambda t: PEAK * math.sqrt(10 / t),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("float64")
def test_every_step_has_its_closed_form(name):
    rate = jax.jit(schedule(name))
    expected = [
        PEAK * t / WARMUP if t < WARMUP else CLOSED_FORMS[name](t) for t in range(STEPS + 1)
    ]
    found = [float(rate(t)) for t in range(STEPS + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_at_zero_and_peaks_after_the_warm_up(name):
    rate = schedule(name)
    assert float(rate(0)) == 0
    assert float(rate(WARMUP)) == pytest.approx(PEAK)
    assert max(float(rate(t)) for t in range(0, STEPS + 1, 5)) == pytest.approx(PEAK)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_warm_up_it_begins_at_the_peak(name):
    assert float(schedule(name, warmup_steps=0)(0)) == pytest.approx(PEAK)


@pytest.mark.parametrize("name", ["cosine", "linear", "stable_decay"])
def test_what_has_an_end_stays_there(name):
    rate = schedule(name)
    assert float(rate(STEPS)) == pytest.approx(END)
    assert float(rate(STEPS + 50)) == pytest.approx(END)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_run_shorter_than_its_warm_up_still_has_a_schedule(name, steps):
    rate = schedule(name, steps=steps)
    assert float(rate(steps - 1)) == pytest.approx(PEAK)
    assert np.isfinite(float(rate(steps)))


def test_the_decay_never_begins_in_the_warm_up():
    rate = schedule("stable_decay", decay_fraction=1.0)
    linear = schedule("linear")
    for step in range(0, STEPS + 1, 10):
        assert float(rate(step)) == pytest.approx(float(linear(step)))


def test_the_shortest_decay_has_one_step():
    rate = schedule("stable_decay", decay_fraction=1e-6)
    assert float(rate(STEPS - 1)) == pytest.approx(PEAK)
    assert float(rate(STEPS)) == pytest.approx(END)


def test_longer_training_only_prolongs_what_is_stable():
    """So a run may go on from before its decay as if it had always been longer."""
    short, long = schedule("stable_decay"), schedule("stable_decay", steps=3 * STEPS)
    assert [float(short(t)) for t in range(76)] == [float(long(t)) for t in range(76)]


@pytest.mark.parametrize("name", NAMES)
def test_no_step_computes_what_is_not_finite(name):
    """Also not where it is thrown away, so that ``jax_debug_nans`` and its like stay silent."""
    with jax.debug_nans(True), jax.debug_infs(True):
        assert np.isfinite(float(schedule(name)(0)))
