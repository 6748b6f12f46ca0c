"""The block that a recall network iterates, and an explicit one stacks."""

import functools
from typing import NamedTuple

import jax
from flax import nnx

from deqjax.models.recall._shape import RecallShape
from deqjax.nn import rms_norm


class RecallBlock(nnx.Module):
    """z -> rms(z + W_2 * relu(W_1 * z + u)), with convolutions * over the positions.

    The norm over the features is each position's own, so that no position knows of the length of
    the sequence.

    Args:
        shape: sizes.
        rngs: stream "params".

    Attributes:
        shape: sizes.
        inner: W_1, without a bias: u has it.
        inject: makes u of the one-hot tokens.
        outer: W_2.
    """

    def __init__(self, shape: RecallShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        width = shape.width
        convolution = functools.partial(
            nnx.Conv,
            kernel_size=(shape.kernel,),
            padding="CAUSAL" if shape.causal else "SAME",
            rngs=rngs,
        )
        self.inner = convolution(width, width, use_bias=False)
        self.inject = convolution(shape.vocabulary, width)
        start = nnx.initializers.variance_scaling(
            shape.branch_scale**2, "fan_in", "truncated_normal"
        )
        self.outer = convolution(width, width, kernel_init=start)

    def __call__(self, z: jax.Array, u: jax.Array) -> jax.Array:
        """The block at z (batch, N, width), with what ``inject`` has made of the tokens."""
        z = z + self.outer(jax.nn.relu(self.inner(z) + u))
        return rms_norm(z, epsilon=self.shape.norm_eps)


class RecallInputs(NamedTuple):
    """What an iteration needs besides z.

    Attributes:
        injected: what each block adds to its inner convolution, (batch, N, width) each.
    """

    injected: tuple[jax.Array, ...]


class RecallCell(nnx.Module):
    """One iteration: the blocks one after the other, each of which sees the tokens.

    Args:
        shape: sizes.
        rngs: stream "params".

    Attributes:
        blocks: of the iteration.
    """

    def __init__(self, shape: RecallShape, *, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([RecallBlock(shape, rngs=rngs) for _ in range(shape.blocks)])

    def inputs(self, one_hot: jax.Array) -> RecallInputs:
        """What the blocks make of tokens (batch, N, tokens), once before a solve."""
        return RecallInputs(tuple(block.inject(one_hot) for block in self.blocks))

    def __call__(self, z: jax.Array, u: RecallInputs) -> jax.Array:
        """One iteration from z (batch, N, width)."""
        for block, injected in zip(self.blocks, u.injected, strict=True):
            z = block(z, injected)
        return z
