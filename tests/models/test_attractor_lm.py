"""The attractor language model: its map, its gradient, its precision, and what is refused.

What it computes is compared with an independent reference in tests/experiments.
"""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deqjax as dq
from deqjax.models import AttractorLM, AttractorShape, attractor_settings
from deqjax.models.attractor._block import _activated

BATCH, LENGTH = 2, 5
SHAPE = AttractorShape(
    vocabulary=11,
    length=LENGTH,
    width=8,
    heads=2,
    hidden=12,
    prelude_layers=1,
    head_layers=1,
)
EXACT = dataclasses.replace(attractor_settings(), tol=1e-6, max_steps=60)
TOKENS = jax.random.randint(jax.random.key(0), (BATCH, LENGTH + 1), 0, 11)


@cache
def built(shape=SHAPE, settings=EXACT):
    return nnx.split(AttractorLM(shape, settings, rngs=nnx.Rngs(0)))


@partial(jax.jit, static_argnums=0)
def predicted(graph, state, tokens):
    """Logits, f(y*) and the solution."""
    model = nnx.merge(graph, state, copy=True)
    prediction = model(tokens)
    f, u, solution = prediction.equilibrium
    return model.logits(prediction.states), f(solution.value, u), solution, u.context


def test_the_state_is_a_fixed_point_around_the_context():
    _, image, solution, context = predicted(*built(), TOKENS[:, :-1])
    np.testing.assert_allclose(image, solution.value, atol=1e-5)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    assert np.abs(solution.value - context).max() > 0.1


def test_later_tokens_do_not_change_earlier_logits():
    text = TOKENS[:, :-1]
    other = text.at[:, 3].set((text[:, 3] + 1) % 11)
    ours, theirs = (predicted(*built(), each)[0] for each in (text, other))
    np.testing.assert_allclose(ours[:, :3], theirs[:, :3], atol=2e-5)
    assert np.abs(ours[:, 3:] - theirs[:, 3:]).max() > 1e-3


def loss(graph, tokens, state):
    model = nnx.merge(graph, state, copy=True)
    prediction = model(tokens[:, :-1])
    return jnp.mean(model.negative_log_likelihood(prediction.states, tokens[:, 1:]))


def test_the_gradient_has_two_terms_as_published():
    """u = v + J^T v at y*, then through f to the parameters and to the context."""
    graph, state = built()

    @jax.jit
    def both(state):
        def published(state, u_bar=None):
            model = nnx.merge(graph, state, copy=True)
            u = model.inputs(TOKENS[:, :-1])
            f = model.deq.cell
            y = jax.lax.stop_gradient(model(TOKENS[:, :-1]).equilibrium.solution.value)

            def after(y):
                states = model._normal(y)
                return jnp.mean(model.negative_log_likelihood(states, TOKENS[:, 1:]))

            if u_bar is None:
                v = jax.grad(after)(y)
                (pulled,) = jax.vjp(lambda y: f(y, u), y)[1](v)
                return v + pulled
            return after(y) + jnp.vdot(u_bar, f(y, u))

        adjoint = jax.lax.stop_gradient(published(state))
        return jax.grad(partial(loss, graph, TOKENS))(state), jax.grad(published)(state, adjoint)

    ours, theirs = both(state)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for path, leaf in nnx.to_flat_state(ours):
        wanted = dict(nnx.to_flat_state(theirs))[path]
        np.testing.assert_allclose(leaf[...], wanted[...], atol=1e-6, err_msg=str(path))
        assert np.abs(leaf[...]).max() > 0, path


def test_a_clip_of_zero_leaves_one_term():
    """Beside the Jacobian-free gradient, which has none either."""
    settings = dataclasses.replace(EXACT, backward_clip=0.0)
    free = dataclasses.replace(EXACT, adjoint="jacobian_free")
    found = [
        jax.jit(jax.grad(partial(loss, built(settings=each)[0], TOKENS)))(built()[1])
        for each in (settings, free)
    ]
    jax.tree.map(lambda *each: np.testing.assert_allclose(*each, atol=1e-6), *found)


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.1), ("mixed", 1e-4)])
def test_other_precisions_are_near(dtype, error):
    shape = dataclasses.replace(SHAPE, dtype=dtype)
    settings = dataclasses.replace(EXACT, tol=1e-2 if dtype == "bfloat16" else 1e-6)
    found = predicted(*built(shape, settings), TOKENS[:, :-1])
    wanted = predicted(*built(), TOKENS[:, :-1])
    assert found[2].value.dtype == jnp.float32
    assert 0 < np.abs(found[0] - wanted[0]).max() < error


def test_gates_start_at_their_bound_and_matrices_as_published():
    model = AttractorLM(dataclasses.replace(SHAPE, width=64, hidden=256), rngs=nnx.Rngs(0))
    block = model.deq.cell.blocks[0]
    gates = block.prepare(jnp.float32, None, None).gates
    np.testing.assert_allclose(gates.attention, 0.75, rtol=1e-5)
    for linear, variance in ((block.query, 1), (block.out, 1 / 4), (block.down, 1 / 4)):
        wanted = (variance * 2 / (5 * 64)) ** 0.5
        np.testing.assert_allclose(np.std(linear.weight.kernel[...]), wanted, rtol=0.05)
    assert model.prelude[0].attention_gate is None


def test_the_squared_relu_is_halved():
    found = _activated(jnp.array([-2.0, 0.0, 3.0]), "relu2")
    np.testing.assert_array_equal(found, [0.0, 0.0, 4.5])


def test_without_a_head_nothing_is_solved():
    shape = dataclasses.replace(SHAPE, prelude_layers=2, head_layers=0)
    model = AttractorLM(shape, rngs=nnx.Rngs(0))
    prediction = model(TOKENS)
    assert prediction.equilibrium is None
    assert model.zero_state(1, 1) is None
    assert prediction.states.shape == (*TOKENS.shape, 8)


def test_the_published_settings_take_six_evaluations_at_least():
    settings = dataclasses.replace(attractor_settings(), tol=1.0)
    graph, state = built(settings=settings)
    stats = predicted(graph, state, TOKENS[:, :-1])[2].stats
    assert stats.evaluations == 6
    assert settings.max_steps + 1 == 64


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 3}, "width 8 must be a multiple of heads 3"),
        ({"heads": 8}, "rotary positions need an even number"),
        ({"key_heads": 3}, "heads 2 must be a multiple of key_heads 3"),
        ({"gate_start": 0.8}, "gate_start 0.8 must be at most gate_bound 0.75"),
        ({"padded_vocabulary": 10}, "padded_vocabulary 10 must be at least the vocabulary 11"),
        ({"vocabulary": None}, "vocabulary is not known"),
        ({"head_layers": 0, "dtype": "mixed"}, "without head_layers nothing is solved"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        AttractorLM(dataclasses.replace(SHAPE, **changes), rngs=nnx.Rngs(0))
