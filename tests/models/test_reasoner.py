"""The equilibrium reasoner: passes, what of them has a gradient, noise, starts, refusals."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.diagnostics._float64_truth import _check_keeps_float64, widen
from deqjax.models import (
    PuzzleTransformer,
    Reasoner,
    ReasonerShape,
    ReasonerStates,
    SolverSettings,
    reasoner_settings,
)
from deqjax.nn import observe, reseed

SHAPE = ReasonerShape(tokens=5, width=8, heads=2, layers=1, multiple=8, inner_steps=1)
NOISY = dataclasses.replace(SHAPE, noise=0.1, inner_steps=2)
TOKENS = jnp.asarray([[0, 1, 2, 3, 4, 0], [4, 4, 1, 0, 2, 3]], jnp.int32)


def settings(**changes):
    return dataclasses.replace(reasoner_settings(), **changes)


@cache
def model(shape=SHAPE, solver=None, cycles=None):
    return Reasoner(shape, solver, cycles=cycles, rngs=nnx.Rngs(0))


def starts():
    high, low = np.random.default_rng(1).normal(size=(2, *TOKENS.shape, SHAPE.width))
    return ReasonerStates(jnp.float32(high), jnp.float32(low))


def built(shape, solver=None, cycles=None, train=True):
    made = nnx.clone(model(shape, solver, cycles))
    made.train() if train else made.eval()
    return made


@nnx.jit
def thought(model):
    return model(TOKENS, starts())._replace(equilibrium=None)


def cycles_by_hand(made, count, held=0):
    """States after so many cycles, of which the first ``held`` have no gradient."""
    x, z = made.embed(TOKENS), starts()
    for number in range(count):
        z = made.deq.cell(z, x, step=jnp.int32(number))
        if number + 1 <= held:
            z = jax.lax.stop_gradient(z)
    return z


@nnx.jit(static_argnums=1)
def gradient(made, run):
    def objective(made):
        return jnp.sum(jnp.sin(made.read(run(made).high)[0]))

    return nnx.grad(objective)(made)


def close(ours, theirs, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-5} | tolerance)),
        ours,
        theirs,
    )


@pytest.mark.parametrize(
    ("solver", "held"),
    [
        (settings(backward_max_steps=2), 1),
        (settings(backward_max_steps=3), 0),
    ],
    ids=["last_two", "all"],
)
def test_a_pass_is_its_cycles_and_its_gradient_that_of_the_last(solver, held):
    made = built(SHAPE, solver)
    close(thought(made).states, cycles_by_hand(made, 3))
    ours = gradient(made, lambda made: made(TOKENS, starts()).equilibrium.solution.value)
    close(ours, gradient(made, lambda made: cycles_by_hand(made, 3, held)))


def test_states_of_other_puzzles_are_refused():
    made = built(SHAPE)
    high, low = starts()
    with pytest.raises(ValueError, match=r"states must be \(batch, length, width\), .* got \(1,"):
        made(TOKENS, ReasonerStates(high, low[:1]))


def test_rules_that_take_the_end_for_a_fixed_point_leave_the_pass_alone():
    made = built(SHAPE, settings(adjoint="jacobian_free"))
    close(thought(made).states, cycles_by_hand(made, 3))
    found = gradient(made, lambda made: made(TOKENS, starts()).equilibrium.solution.value)
    sizes = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(found)]
    assert np.isfinite(sizes).all()
    assert max(sizes) > 1e-3


def test_several_passes_are_one_evaluation():
    made = built(SHAPE)
    states = starts()
    step = nnx.jit(lambda made, states: made(TOKENS, states).states)
    for _ in range(3):
        states = step(made, states)
    whole = thought(built(dataclasses.replace(SHAPE, noise=0.1), cycles=9, train=False))
    close(whole.states, states)
    close(whole.logits, made.read(states.high)[0])


def test_the_limit_of_an_observer_is_the_number_of_cycles():
    made = built(SHAPE, cycles=9, train=False)
    with observe(made, tol=0.0, max_steps=2) as seen:
        answer = made(TOKENS, starts())
    close(answer.states, cycles_by_hand(made, 2))
    assert seen.solves[0].layer == "thinking"
    assert seen.solves[0].solution.stats.steps.tolist() == [2, 2]


def test_noise_is_of_the_key_and_of_the_cycle():
    made = built(NOISY)
    reseed(made, jax.random.key(3))
    first = thought(made).states
    second = thought(made).states  # the stream has moved on
    reseed(made, jax.random.key(3))
    close(thought(made).states, first)
    assert float(jnp.abs(first.high - second.high).max()) > 1e-3
    cell, x = made.deq.cell, made.embed(TOKENS)
    f = made.deq.freeze(x, starts())
    one, again, other = (f(starts(), x, step=jnp.int32(n)) for n in (0, 0, 1))
    close(one, again, rtol=0, atol=0)
    assert float(jnp.abs(one.low - other.low).max()) > 1e-3
    cell.eval()
    quiet = cell(starts(), x, step=jnp.int32(0))
    # two levels of deviation 0.1 each, the first damped to 5 % at least
    assert 0.02 < float(jnp.std(one.low - quiet.low)) < 1


def test_starts_have_their_deviations_and_no_outliers():
    shape = dataclasses.replace(SHAPE, start_deviations=(1.0, 0.5))
    states = built(shape).initial_states(50, 40, jax.random.key(0))
    assert isinstance(states, ReasonerStates)
    for state, deviation in zip(states, (1.0, 0.5), strict=True):
        np.testing.assert_allclose(jnp.std(state), deviation, rtol=0.02)
        assert float(jnp.abs(state).max()) < 2.3 * deviation
    assert not jnp.array_equal(states.high[0], states.high[1])


def test_bfloat16_is_near():
    rough = thought(built(dataclasses.replace(SHAPE, dtype="bfloat16")))
    assert rough.states.high.dtype == jnp.float32
    close(rough.states, thought(built(SHAPE)).states, rtol=0.2, atol=0.2)


def test_a_fresh_model_halts_nowhere():
    assert float(thought(built(SHAPE)).halting.max()) < 0


def test_the_explicit_network_has_a_reasoners_parameters_but_for_halting():
    def count(module):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))

    explicit = PuzzleTransformer(SHAPE, rngs=nnx.Rngs(0))
    assert explicit(TOKENS).shape == (2, 6, 5)
    assert count(model()) == count(explicit) + 2 * SHAPE.width + 2
    longer = jnp.concatenate([TOKENS, TOKENS], axis=1)
    assert explicit(longer).shape == (2, 12, 5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tokens": None}, "tokens is not known"),
        ({"heads": 3}, "width 8 must be a multiple of heads 3"),
        ({"heads": 8}, "a multiple of 2, got width 8 / heads 8 = 1"),
        ({"positions": "rotary_2d", "heads": 4}, "a multiple of 4, got width 8 / heads 4 = 2"),
        ({"board": (2, 3), "length": 7}, "a board of 2 x 3 has 6 tokens, but length is 7"),
        ({"mixing": "mlp"}, "needs the length of a puzzle"),
    ],
)
def test_sizes_that_make_no_model_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Reasoner(dataclasses.replace(SHAPE, **changes), rngs=nnx.Rngs(0))


def test_noise_that_cannot_be_undone_is_refused():
    reversible = SolverSettings(method="reversible", damping=0.6, adjoint="reversible")
    with pytest.raises(ValueError, match=r"noise 0.1 differs from cycle to cycle"):
        Reasoner(NOISY, reversible, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("solver", "sentence"),
    [
        (settings(backward_max_steps=4), "3 cycles .* cannot have a gradient through the last 4"),
        (settings(method="broyden"), "returns 'last' goes with the methods"),
    ],
)
def test_settings_that_make_no_pass_are_refused(solver, sentence):
    with pytest.raises(ValueError, match=sentence):
        Reasoner(SHAPE, solver, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("changes", "tokens", "sentence"),
    [
        ({}, jnp.ones((2, 6)), "must be whole numbers"),
        ({"mixing": "mlp", "length": 5}, TOKENS, "built for puzzles of 5 tokens, got 6"),
        ({"positions": "rotary_2d"}, TOKENS, "need the rows and columns of the board"),
        (
            {"positions": "rotary_2d", "board": (2, 2)},
            TOKENS,
            "a puzzle of 6 tokens is no board of 2 x 2",
        ),
    ],
)
def test_tokens_that_a_network_cannot_take_are_refused(changes, tokens, sentence):
    made = Reasoner(dataclasses.replace(SHAPE, **changes), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=sentence):
        made(tokens, starts())


def test_a_cycle_keeps_float64_for_a_gradient_that_others_are_compared_with():
    shape = dataclasses.replace(SHAPE, board=(2, 3), positions="rotary_2d")
    graph, parameters, rest = nnx.split(built(shape, train=False).deq.cell, nnx.Param, ...)

    def f(z, parameters, x):
        return nnx.merge(graph, parameters, rest)(z, x)

    with jax.enable_x64(True):
        z, parameters, x = widen((starts(), parameters, model(shape).embed(TOKENS)))
        _check_keeps_float64(f, z, (parameters, x))
