"""From images to the injection of an MDEQ."""

import jax
from flax import nnx

from deqjax.models.mdeq._shape import MDEQShape
from deqjax.nn import ConvBatchNorm


class MDEQStem(nnx.Module):
    """Images to the injection of branch 0.

    At least two 3x3 convolutions, of which as many halve height and width as ``downsample_times``
    says, each with batch norm and ReLU; then a 1x1 convolution likewise, but for a model of at most
    two branches that does not halve.

    Args:
        shape: sizes and options.
        rngs: stream "params".
    """

    def __init__(self, shape: MDEQShape, *, rngs: nnx.Rngs) -> None:
        width, times = shape.channels[0], shape.downsample_times
        self.layers = nnx.List(
            [
                ConvBatchNorm(
                    width if i else shape.image_channels,
                    width,
                    3,
                    stride=2 if i < times else 1,
                    rngs=rngs,
                )
                for i in range(max(2, times))
            ]
        )
        injects = times > 0 or len(shape.channels) > 2
        self.injection = ConvBatchNorm(width, width, 1, rngs=rngs) if injects else None

    def __call__(self, images: jax.Array) -> jax.Array:
        """The injection (batch, height / 2^times, width / 2^times, channels) of images."""
        x = images
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x if self.injection is None else jax.nn.relu(self.injection(x))
