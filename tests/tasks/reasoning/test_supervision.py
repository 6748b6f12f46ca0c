"""Deep supervision: which puzzle a row is at, and when it leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.models import Reasoner, ReasonerShape
from deqjax.tasks.reasoning import Carried, Supervision, Thinking
from deqjax.tasks.reasoning._evaluation import thought
from deqjax.tasks.reasoning._supervision import nothing_carried, supervised

SHAPE = ReasonerShape(tokens=3, width=8, heads=2, layers=1, multiple=8, inner_steps=1)
ROWS, LENGTH = 3, 4
BATCH = {
    "inputs": jnp.asarray([[1, 2, 1, 2], [2, 2, 1, 1], [1, 1, 1, 2]], jnp.int32),
    "targets": jnp.asarray([[1, 2, 2, 1], [2, 1, 2, 1], [1, 2, 1, 1]], jnp.int32),
}
CARRIED = Carried(
    BATCH["inputs"][::-1],
    BATCH["targets"][::-1],
    jax.tree.map(lambda leaf: leaf + 0.5, nothing_carried(ROWS, LENGTH, SHAPE.width).states),
    jnp.asarray([0, 3, 15], jnp.int32),
)


@pytest.fixture(scope="module")
def model():
    return Reasoner(SHAPE, rngs=nnx.Rngs(0))


@nnx.jit(static_argnums=2)
def step(model, carried, supervision=None):
    found = supervised(model, BATCH, carried, Supervision() if supervision is None else supervision)
    return found.losses, found.counts, found.memory


def test_a_row_that_is_done_begins_the_puzzle_of_the_batch_and_others_go_on(model):
    _, _, following = step(model, CARRIED)
    for name in ("inputs", "targets"):
        here = getattr(following, name)
        np.testing.assert_array_equal(here[0], BATCH[name][0])
        np.testing.assert_array_equal(here[1:], getattr(CARRIED, name)[1:])
    # 16 passes are enough
    assert following.passes.tolist() == [1, 4, 0]


def test_states_are_handed_on_and_starts_are_random(model):
    made = nnx.clone(model)
    _, _, following = step(made, CARRIED)
    answer = made(CARRIED.inputs, CARRIED.states)
    for ours, theirs in zip(following.states, answer.states, strict=True):
        np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-4, atol=1e-5)
        assert float(jnp.abs(ours[0] - theirs[0]).max()) > 1e-2
    empty = nothing_carried(ROWS, LENGTH, SHAPE.width)
    _, _, first = step(made, empty)
    _, _, again = step(made, empty)  # the model has drawn since
    assert float(jnp.abs(first.states.high - again.states.high).max()) > 1e-2


def test_the_loss_is_that_of_the_answer_and_of_the_judgement(model):
    made = nnx.clone(model)
    going_on = CARRIED._replace(passes=jnp.full(ROWS, 2))
    losses, counts, _ = step(made, going_on)
    answer = made(CARRIED.inputs, CARRIED.states)
    logits = np.asarray(answer.logits, np.float64)
    s = np.where(logits >= 0, logits + 1, 1 / (1 - np.minimum(logits, 0)))
    shares = np.take_along_axis(s, np.asarray(CARRIED.targets)[..., None], -1)[..., 0] / s.sum(-1)
    solved = (logits.argmax(-1) == CARRIED.targets).all(-1)
    judged = np.logaddexp(0, np.where(solved, -1, 1) * np.asarray(answer.halting[:, 0]))
    np.testing.assert_allclose(losses, -np.log(shares).mean(-1) + 0.5 * judged, rtol=1e-4)
    np.testing.assert_array_equal(counts["exact"], solved)


@pytest.mark.parametrize(("exploration", "passes"), [(0.0, [0, 0, 0]), (1.0, [1, 1, 1])])
def test_a_sure_row_leaves_unless_it_must_explore(model, exploration, passes):
    made = nnx.clone(model)
    made.halting.bias[...] = jnp.full(2, 30.0)
    empty = nothing_carried(ROWS, LENGTH, SHAPE.width)
    _, counts, following = step(made, empty, Supervision(exploration=exploration))
    assert following.passes.tolist() == passes
    assert counts["halted"].all()


def test_one_pass_is_enough_if_more_are_not_allowed(model):
    empty = nothing_carried(ROWS, LENGTH, SHAPE.width)
    assert step(nnx.clone(model), empty, Supervision(passes=1))[2].passes.tolist() == [0, 0, 0]


def test_scores_of_several_starts_are_those_of_each(model):
    made = Reasoner(dataclasses.replace(SHAPE, noise=0.1), cycles=4, rngs=nnx.Rngs(0))
    made.eval()
    # a random network is always wrong: let it know some of the answers
    thinking = Thinking(starts=3, seed=5)
    starts = made.initial_states(3, LENGTH, jax.random.key(5))
    given, residual, halting = [], [], []
    answered = nnx.jit(
        lambda made, states: (
            (answer := made(BATCH["inputs"], states)).logits,
            answer.halting,
            answer.equilibrium.solution.stats.residual,
        )
    )
    for number in range(3):
        own = jax.tree.map(lambda leaf, n=number: jnp.broadcast_to(leaf[n], (3, 4, 8)), starts)
        logits, numbers, left = answered(made, own)
        given.append(logits.argmax(-1))
        residual.append(left)
        halting.append(numbers[:, 0])
    batch = BATCH | {"targets": jnp.stack([given[0][0], given[1][1], given[2][2] + 3])}
    score = nnx.jit(lambda made, batch: thought(made, batch, (), thinking))
    found = score(made, batch)
    solved = np.stack([(each == batch["targets"]).all(-1) for each in given], 1)
    np.testing.assert_allclose(found.counts["exact"], solved.mean(1))
    picks = {"residual": np.stack(residual, 1).argmin(1), "halting": np.stack(halting, 1).argmax(1)}
    for name, pick in picks.items():
        np.testing.assert_array_equal(found.counts[f"exact_by_{name}"], solved[np.arange(3), pick])
    same = [len({tuple(each[row].tolist()) for each in given}) == 1 for row in range(3)]
    assert found.counts["same_answer"].tolist() == same
    assert found.losses.shape == (3,)
    # neither time nor batch mates matter
    part = score(made, jax.tree.map(lambda leaf: leaf[1:2], batch))
    np.testing.assert_allclose(part.losses, found.losses[1:2], rtol=1e-5)
    assert part.memory == ()
