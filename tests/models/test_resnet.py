"""The explicit baseline of the image models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.models import ResidualShape, ResNet

SHAPE = ResidualShape(channels=(4, 8), groups=2, classes=3, input_channels=2)


def images():
    return jax.random.normal(jax.random.key(0), (4, 8, 8, 2))


def count(module):
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize("depth", [1, 3])
def test_each_stage_has_depth_blocks(depth):
    model = ResNet(SHAPE, depth, rngs=nnx.Rngs(0))
    blocks = depth * sum(2 * 9 * c * c + 4 * c for c in SHAPE.channels)
    entries = 9 * 2 * 4 + 2 * 4 + 9 * 4 * 8 + 2 * 8
    assert count(model) == entries + blocks + SHAPE.pooled_grid**2 * 8 * 3 + 3


def test_nothing_is_solved_and_images_are_classified():
    model = ResNet(SHAPE, 1, rngs=nnx.Rngs(0))
    prediction = nnx.jit(lambda model: model(images()))(model)
    assert prediction.logits.shape == (4, 3)
    assert prediction.logits.dtype == jnp.float32
    assert prediction.equilibria == ()
    assert model.stages == 0


def test_there_is_nothing_to_mix():
    with pytest.raises(ValueError, match="dtype 'mixed' is a way to solve, and a stack of layers"):
        ResNet(dataclasses.replace(SHAPE, dtype="mixed"), 1, rngs=nnx.Rngs(0))


def test_a_block_without_its_branch_is_a_relu():
    model = ResNet(SHAPE, 1, rngs=nnx.Rngs(0))
    block = model.blocks[0][0]
    block.outer.norm.scale[...] = jnp.zeros(4)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 4))
    np.testing.assert_array_equal(block(x), jnp.maximum(x, 0))


def test_statistics_move_in_training_only():
    model = ResNet(SHAPE, 1, rngs=nnx.Rngs(0))
    norm = model.entries[0].norm
    model(images())
    moved = norm.mean[...]
    assert (moved != 0).any()
    model.eval()
    model(images())
    np.testing.assert_array_equal(norm.mean[...], moved)


def test_every_parameter_gets_gradient():
    graph, parameters, rest = nnx.split(ResNet(SHAPE, 2, rngs=nnx.Rngs(0)), nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(parameters):
        logits = nnx.merge(graph, parameters, rest, copy=True)(images()).logits
        return jnp.mean(jax.nn.log_softmax(logits)[:, 0])

    sizes = {path: jnp.abs(x[...]).max() for path, x in nnx.to_flat_state(gradient(parameters))}
    assert {path for path, size in sizes.items() if not 0 < size < np.inf} == set()


def test_no_blocks_are_refused():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        ResNet(SHAPE, 0, rngs=nnx.Rngs(0))
