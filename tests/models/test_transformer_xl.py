"""The explicit Transformer-XL."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    DEPTH,
    HIDDEN,
    LENGTH,
    SHAPE,
    VOCABULARY,
    WIDTH,
    built,
    changed_at,
    make,
    read,
    some_memory,
    tokens,
)
from transformer_oracle import attention, feed_forward, layer_norm

import deqjax as dq
from deqjax.models._transformer_xl import TransformerXL, TransformerXLLayer

MEMORY, HORIZON, FILLED = 3, 5, [3, 1]


def states_of(kind, tokens):
    parts = built(kind)
    return read(*parts, tokens, some_memory(nnx.merge(*parts, copy=True)))[0]


def count(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize("pre", [True, False])
def test_a_layer_is_its_formula(pre):
    shape = dataclasses.replace(SHAPE, horizon=HORIZON, pre_layer_norm=pre)
    layer = TransformerXLLayer(shape, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(5)
    state = nnx.state(layer, nnx.Param)
    nnx.update(layer, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state))
    h = rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
    before = rng.normal(size=(BATCH, MEMORY, WIDTH)).astype(np.float32)

    @nnx.jit
    def apply(layer):
        return layer(h, layer.prepare(None, before, None, jnp.array(FILLED), LENGTH))

    norm = layer_norm if pre else lambda x: x
    c = norm(np.concatenate([before, h], axis=1))
    g = h + attention(layer, c, 0, MEMORY, FILLED, HORIZON)
    g = g if pre else layer_norm(g)
    expected = g + feed_forward(layer, norm(g))
    expected = expected if pre else layer_norm(expected)
    np.testing.assert_allclose(apply(layer), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["xl", "xl pre-LN"])
def test_what_the_softmax_reads_is_normalized(kind):
    states = np.asarray(states_of(kind, tokens()))
    assert states.shape == (BATCH, LENGTH, WIDTH)
    np.testing.assert_allclose(states.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(states.var(-1), 1, atol=1e-3)


@pytest.mark.parametrize("kind", ["xl", "xl pre-LN"])
@pytest.mark.parametrize("position", [1, LENGTH - 1])
def test_states_before_a_token_do_not_depend_on_it(kind, position):
    change = np.abs(
        states_of(kind, tokens()) - states_of(kind, changed_at(tokens(), position))
    ).max(axis=(0, 2))
    assert (change[:position] == 0).all()
    assert (change[position:] > 0).all()


def test_depth_layers_with_weights_of_their_own():
    model = make("xl")
    assert len(model.layers) == DEPTH
    one, other = (layer.up.kernel[...] for layer in model.layers)
    assert (one != other).any()


@pytest.mark.parametrize("depth", [1, 3])
def test_the_parameters_are_the_embedding_and_a_layer_each(depth):
    layer = count(TransformerXLLayer(SHAPE, rngs=nnx.Rngs(0)))
    weights = 5 * WIDTH**2 + 2 * WIDTH * HIDDEN
    gains = 6 * WIDTH + HIDDEN
    assert layer == weights + gains + (2 * WIDTH + HIDDEN) + 2 * WIDTH
    model = TransformerXL(SHAPE, depth, rngs=nnx.Rngs(0))
    assert count(model) == VOCABULARY * (WIDTH + 1) + depth * layer


def test_nothing_is_solved_and_the_probe_stays_at_zero():
    graph, *state = built("xl")

    @jax.jit
    def report(probe):
        def total(probe):
            prediction = nnx.merge(graph, *state, copy=True)(tokens(), probe=probe)
            assert prediction.equilibrium is None
            return jnp.sum(prediction.states)

        return jax.grad(total)(probe)

    probe = report(dq.backward_probe(BATCH))
    assert all((leaf == 0).all() for leaf in probe)
    assert (probe.status == dq.Status.NOT_RUN).all()


def test_every_parameter_gets_gradient():
    graph, parameters, rest = built("xl")

    @jax.jit
    def gradient(parameters):
        def loss(parameters):
            model = nnx.merge(graph, parameters, rest, copy=True)
            states = model(tokens(), some_memory(model)).states
            return jnp.mean(model.negative_log_likelihood(states, tokens(1)))

        return jax.grad(loss)(parameters)

    sizes = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient(parameters))]
    assert all(1e-7 < size < np.inf for size in sizes)


def test_dropout_is_drawn_anew_in_training_and_never_in_evaluation():
    model = make("xl", dataclasses.replace(SHAPE, dropout=0.5))

    @nnx.jit
    def states(model):
        return model(tokens()).states

    assert (states(model) != states(model)).any()
    model.eval()
    # a draw would be a trace error here
    evaluate = jax.jit(lambda tokens: model(tokens).states)
    np.testing.assert_array_equal(evaluate(tokens()), evaluate(tokens()))


def test_depth_must_be_at_least_one():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        TransformerXL(SHAPE, 0, rngs=nnx.Rngs(0))
