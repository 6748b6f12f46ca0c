"""The moving average of the weights: what it is after some steps, and where there is none."""

import functools

import jax
import numpy as np
import toy

from deqjax.data import Vocabulary
from deqjax.training._run import assemble
from tiny import tiny_config

DECAY = 0.3  # above (1 + t) / (10 + t) for the first three steps, and below from then on
BAD = 4  # this step is left out
BATCHES = [toy.batch(seed) for seed in range(6)]
BATCHES[BAD] = toy.spoiled(BATCHES[BAD], "points", np.nan)


@functools.cache
def history():
    states, _ = toy.run(BATCHES, normalized=True, average_decay=DECAY, pretraining=True)
    return states


def leaves(weights):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(weights)]


def test_average_is_that_of_the_recurrence():
    first, *others = history()
    average = leaves(first.weights)
    for step, state in enumerate(others):
        if step != BAD:
            decay = min(DECAY, (1 + step) / (10 + step))
            pairs = zip(average, leaves(state.weights), strict=True)
            average = [decay * old + (1 - decay) * new for old, new in pairs]
        for found, expected in zip(leaves(state.average), average, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_average_lags_behind_parameters_and_statistics():
    last = history()[-1]
    for part, own in zip(last.average, last.weights, strict=True):
        assert toy.bits(part) != toy.bits(own)


def test_average_is_what_is_evaluated():
    last = history()[-1]
    assert last.evaluated is last.average


def test_without_a_decay_there_is_no_average():
    (_, after), _ = toy.run([toy.batch()], pretraining=True)
    assert after.average is None
    assert after.evaluated is after.weights


def beginning(**changes):
    """The state before the first step of a configuration."""
    config = tiny_config("unused", **changes)
    task = config.task.opened({"vocabulary": Vocabulary.of_bytes().to_dict()})
    return assemble(config, task)[1]


def test_a_configuration_with_a_decay_starts_its_average_at_the_weights():
    state = beginning(average_decay=0.9)
    assert toy.bits(state.average) == toy.bits(state.weights)
    # a buffer that is in the state twice cannot be given away
    own = {id(leaf) for leaf in jax.tree.leaves(state.weights)}
    assert not own & {id(leaf) for leaf in jax.tree.leaves(state.average)}


def test_a_configuration_without_a_decay_has_no_average():
    assert beginning().average is None
