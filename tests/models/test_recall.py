"""The convolutional recall network: its equation, its modes, sequences of any length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.models import ConvolutionalNetwork, RecallReasoner, RecallShape, recall_settings

SHAPE = RecallShape(tokens=3, width=6, blocks=2)
TOKENS = jnp.array([[1, 2, 2, 1, 1], [2, 1, 2, 2, 2]])


@pytest.fixture(scope="module")
def model():
    return RecallReasoner(SHAPE, steps=200, tol=1e-6, rngs=nnx.Rngs(0))


def convolved(x, layer, *, causal):
    """The sum over neighbours, zeros beyond the ends."""
    kernel = np.asarray(layer.kernel[...], np.float64)
    beyond = (2, 0) if causal else (1, 1)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), beyond, (0, 0)))
    out = sum(padded[:, k : k + x.shape[1]] @ kernel[k] for k in range(3))
    return out if layer.bias is None else out + np.asarray(layer.bias[...])


@pytest.mark.parametrize("causal", [False, True])
def test_an_iteration_is_its_equation(causal):
    shape = dataclasses.replace(SHAPE, causal=causal)
    model = RecallReasoner(shape, rngs=nnx.Rngs(0))
    z = np.asarray(jax.random.normal(jax.random.key(1), (2, 5, 6)), np.float64)
    u = model.cell.inputs(jax.nn.one_hot(TOKENS, 3))
    found = model.cell(jnp.asarray(z, jnp.float32), u)
    for block in model.cell.blocks:
        injected = convolved(np.eye(3)[np.asarray(TOKENS)], block.inject, causal=causal)
        hidden = np.maximum(convolved(z, block.inner, causal=causal) + injected, 0)
        z = z + convolved(hidden, block.outer, causal=causal)
        z = z / np.sqrt(np.mean(z**2, -1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, z, atol=1e-5)


@pytest.mark.parametrize("tokens", [TOKENS.astype(jnp.float32), TOKENS[0]])
def test_what_are_no_tokens_is_refused(model, tokens):
    explicit = ConvolutionalNetwork(SHAPE, rngs=nnx.Rngs(0))
    for network in (model, explicit):
        with pytest.raises(ValueError, match=r"must be whole numbers \(batch, length\), got"):
            network(tokens)


def test_evaluation_iterates_on_and_says_how_far(model):
    model.eval()
    few, many = model(TOKENS, max_steps=3), model(TOKENS)
    model.train()
    np.testing.assert_array_equal(few.equilibrium.solution.stats.steps, 3)
    assert jnp.all(many.equilibrium.solution.stats.steps > 3)
    by_hand = model.initial_states(2, 5)
    u = model.cell.inputs(jax.nn.one_hot(TOKENS, 3))
    for _ in range(3):
        by_hand = model.cell(by_hand, u)
    np.testing.assert_allclose(few.states, by_hand, atol=1e-5)


def test_training_takes_more_steps_that_have_a_gradient(model):
    settings = recall_settings()
    answer = model(TOKENS, model.initial_states(2, 5, jax.random.key(0)))
    expected = settings.max_steps + settings.backward_max_steps
    np.testing.assert_array_equal(answer.equilibrium.solution.stats.steps, expected)
    graph, parameters = nnx.split(model)

    def loss(parameters):
        return jnp.sum(nnx.merge(graph, parameters, copy=True)(TOKENS).logits ** 2)

    gradient = jax.grad(loss, allow_int=True)(parameters)
    kernel = gradient["cell"]["blocks"][0]["inner"]["kernel"][...]
    assert jnp.all(jnp.isfinite(kernel))
    assert jnp.any(kernel != 0)


def test_random_starts_have_the_norm_of_states(model):
    start = model.initial_states(2, 5, jax.random.key(0))
    np.testing.assert_allclose(jnp.mean(start**2, -1), 1, atol=1e-3)


def test_longer_sequences_need_no_other_parameters(model):
    assert model(jnp.tile(TOKENS, (1, 3))).logits.shape == (2, 15, 3)


def test_the_explicit_network_has_as_many_parameters(model):
    explicit = ConvolutionalNetwork(SHAPE, rngs=nnx.Rngs(0))

    def count(module):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))

    assert count(explicit) == count(model)
    assert explicit(TOKENS).shape == (2, 5, 3)


def test_states_of_other_sequences_are_refused(model):
    with pytest.raises(ValueError, match=r"states must be .*\(2, 5, 6\) for these .*\(2, 4, 6\)"):
        model(TOKENS, model.initial_states(2, 4))


def test_unknown_tokens_are_refused():
    with pytest.raises(ValueError, match="tokens is not known"):
        RecallReasoner(RecallShape(), rngs=nnx.Rngs(0))
