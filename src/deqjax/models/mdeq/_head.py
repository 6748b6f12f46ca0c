"""From the equilibrium of an MDEQ to classes, of an image or of its pixels."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models.mdeq._shape import MDEQShape
from deqjax.nn import ConvBatchNorm, ConvWeight, convolve, resize_bilinear


class Bottleneck(nnx.Module):
    """ReLU(B(x) + S(x)), B three convolutions to 4 x ``width`` channels, S a shortcut.

    The shortcut is x itself where it has as many channels, else a 1x1 convolution with batch norm.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = ConvBatchNorm(inputs, width, 1, affine=False, rngs=rngs)
        self.mix = ConvBatchNorm(width, width, 3, affine=False, rngs=rngs)
        self.expand = ConvBatchNorm(width, 4 * width, 1, affine=False, rngs=rngs)
        self.shortcut = (
            ConvBatchNorm(inputs, 4 * width, 1, rngs=rngs) if inputs != 4 * width else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of x (batch, height, width, inputs)."""
        y = jax.nn.relu(self.mix(jax.nn.relu(self.reduce(x))))
        rest = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(self.expand(y) + rest)


class ClassificationHead(nnx.Module):
    """The branches, each through a bottleneck, joined from fine to coarse, pooled, classified.

    Args:
        shape: sizes and options.
        rngs: stream "params".
    """

    def __init__(self, shape: MDEQShape, *, rngs: nnx.Rngs) -> None:
        widths = [4 * width for width in shape.head_channels]
        self.bottlenecks = nnx.List(
            [
                Bottleneck(inputs, width, rngs=rngs)
                for inputs, width in zip(shape.channels, shape.head_channels, strict=True)
            ]
        )
        self.downsamples = nnx.List(
            [
                ConvBatchNorm(fine, coarse, 3, stride=2, bias=True, rngs=rngs)
                for fine, coarse in itertools.pairwise(widths)
            ]
        )
        self.final = ConvBatchNorm(widths[-1], shape.final_channels, 1, bias=True, rngs=rngs)
        self.classifier = nnx.Linear(shape.final_channels, shape.logits, rngs=rngs)

    def __call__(self, branches: Sequence[jax.Array]) -> jax.Array:
        """Logits (batch, classes) of the equilibrium."""
        parts = [f(x) for f, x in zip(self.bottlenecks, branches, strict=True)]
        y = parts[0]
        for downsample, part in zip(self.downsamples, parts[1:], strict=True):
            y = part + jax.nn.relu(downsample(y))
        pooled = jnp.mean(jax.nn.relu(self.final(y)), axis=(1, 2))
        logits: jax.Array = self.classifier(pooled)
        return logits


class SegmentationHead(nnx.Module):
    """The branches at the size of the finest, side by side, classified pixel by pixel.

    Args:
        shape: sizes and options.
        rngs: stream "params".
    """

    def __init__(self, shape: MDEQShape, *, rngs: nnx.Rngs) -> None:
        width = sum(shape.channels)
        self.final = ConvBatchNorm(width, width, 1, bias=True, rngs=rngs)
        self.classifier = ConvWeight(width, shape.logits, 1, rngs=rngs)
        self.classifier_bias = nnx.Param(jnp.zeros(shape.logits, jnp.float32))

    def __call__(self, branches: Sequence[jax.Array]) -> jax.Array:
        """Logits (batch, height, width, classes) of the equilibrium."""
        height, width = branches[0].shape[1:3]
        resized = [resize_bilinear(x, height, width) for x in branches]
        y = jax.nn.relu(self.final(jnp.concatenate(resized, axis=-1)))
        return convolve(y, self.classifier()) + self.classifier_bias[...][None, None, None]
