"""The task that learns to iterate: its starts, its scores, its refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.models import RecallShape
from deqjax.tasks.reasoning import Iterating, Puzzles, RecallNetwork, RecallTask, Starts
from deqjax.tasks.reasoning._puzzle_task import Kept
from deqjax.training import ConfigError

NETWORK = RecallNetwork(
    shape=RecallShape(width=8),
    solver=dataclasses.replace(RecallNetwork().solver, max_steps=3, backward_max_steps=2),
)
KEPT = {"tokens": 3, "board": [1, 6]}


def opened(**fields):
    task = RecallTask(network=NETWORK, puzzles=Puzzles(name="prefix_sums", size=6), **fields)
    return task.opened(KEPT)


def batch(rows=4):
    tokens = jax.random.randint(jax.random.key(0), (rows, 6), 1, 3)
    return {"inputs": tokens, "targets": 1 + jnp.cumsum(tokens - 1, axis=1) % 2}


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        (Starts(carried=1.0, random=0.0), "carried"),
        (Starts(carried=0.0, random=0.0), "zeros"),
        (Starts(carried=0.0, random=1.0), "random"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_solves_start_where_they_are_told(starts, expected):
    task = opened(starts=starts)
    model, given = task.model(nnx.Rngs(0)), {}
    memory = 3.0 + task.memory(model, 4)
    layer = model.deq
    original = type(layer).__call__

    def watched(self, u, *, z0, **options):
        given["start"] = z0
        return original(self, u, z0=z0, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(layer), "__call__", watched)
        loss = task.loss(model, batch(), memory)
    norm = jnp.mean(given["start"] ** 2, axis=-1)
    wanted = {"carried": 9.0, "zeros": 0.0, "random": 1.0}[expected]
    np.testing.assert_allclose(norm, wanted, atol=1e-3)
    assert loss.memory.shape == memory.shape
    assert set(loss.counts) == {"cells", "exact"}


def test_an_evaluation_answers_from_zero_and_from_random_states():
    task = opened(thinking=Iterating(steps=50, tol=1e-5, starts=3))
    model = task.model(nnx.Rngs(0))
    model.eval()
    first = task.loss(model, batch(), task.memory(model, 4))
    again = task.loss(model, batch(2), task.memory(model, 2))
    assert {"cells", "exact", "exact_by_residual", "same_answer"} == set(first.counts)
    np.testing.assert_allclose(first.losses[:2], again.losses, rtol=1e-5)
    alone = dataclasses.replace(task, thinking=Iterating(steps=50, starts=1))
    assert set(alone.loss(model, batch(), None).counts) == {"cells", "exact"}


def test_scores_of_an_answer_are_those_of_its_tokens():
    task = opened()
    model = task.model(nnx.Rngs(0))
    model.eval()
    rows = batch()
    answer = model(rows["inputs"]).logits.argmax(-1)
    found = task.loss(model, {"inputs": rows["inputs"], "targets": answer}, None)
    np.testing.assert_array_equal(found.counts["exact"], 1)
    other = answer.at[0, 0].add(1)
    found = task.loss(model, {"inputs": rows["inputs"], "targets": other}, None)
    np.testing.assert_array_equal(found.counts["exact"], [0, 1, 1, 1])
    np.testing.assert_allclose(found.counts["cells"], [5 / 6, 1, 1, 1], rtol=1e-6)


def test_the_explicit_network_needs_no_memory():
    explicit = dataclasses.replace(NETWORK, kind="convolutional")
    task = dataclasses.replace(RecallTask(network=explicit), puzzles=Puzzles(name="prefix_sums"))
    task = task.opened(KEPT)
    model = task.model(nnx.Rngs(0))
    assert task.memory(model, 4) is None
    assert task.loss(model, batch()).losses.shape == (4,)


def test_a_run_that_goes_on_knows_the_length_of_its_sequences():
    task = RecallTask(network=NETWORK, puzzles=Puzzles(name="prefix_sums")).opened(KEPT)
    assert task.memory(None, 2).shape == (2, 6, 8)
    assert task.example(2)["inputs"].shape == (2, 6)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match=r"carried 0.8 .*random 0.4 .*at most 1"):
        RecallTask(starts=Starts(carried=0.8, random=0.4)).check()
    explicit = dataclasses.replace(NETWORK, kind="convolutional")
    with pytest.raises(ConfigError, match=r"starts 3 .*convolutional is explicit"):
        RecallTask(network=explicit, thinking=Iterating(starts=3)).check()
    with pytest.raises(ConfigError, match=r"sudoku4 are boards of 4 rows"):
        RecallTask(puzzles=Puzzles(name="sudoku4")).counted(Kept(6, (4, 4)))
    wrong = RecallNetwork(shape=RecallShape(tokens=7))
    with pytest.raises(ConfigError, match=r"tokens is 7, but the puzzles have 3"):
        RecallTask(network=wrong).counted(Kept(3, (1, 32)))
    with pytest.raises(ConfigError, match=r"--task.puzzles.size is not known"):
        RecallTask().memory(None, 4)
