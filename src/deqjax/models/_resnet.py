"""The explicit baseline of the image models: untied residual blocks.

He, Zhang, Ren & Sun, CVPR 2016, "Deep Residual Learning for Image Recognition", section 4.2, with
as many blocks and channels a stage as one likes.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from deqjax._core.types import Scalar
from deqjax.adjoints import BackwardStats
from deqjax.models._image_model import ImageModel, ImagePrediction, check_images, check_probes
from deqjax.models._precision import check_explicit
from deqjax.models._resdeq import PooledHead, entries
from deqjax.models._residual_shape import ResidualShape
from deqjax.nn import ConvBatchNorm, DropoutMask, masked


class ResidualBlock(nnx.Module):
    """y = ReLU(x + BN(W2 * drop(ReLU(BN(W1 * x)))))."""

    def __init__(self, shape: ResidualShape, stage: int, *, rngs: nnx.Rngs) -> None:
        channels, hidden = shape.channels[stage], shape.hidden_channels(stage)
        self.inner = ConvBatchNorm(channels, hidden, 3, rngs=rngs)
        self.outer = ConvBatchNorm(hidden, channels, 3, rngs=rngs)
        self.mask = DropoutMask(shape.dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels) to the same."""
        h = jax.nn.relu(self.inner(x))
        h = masked(h, self.mask((len(h), 1, 1, h.shape[-1]), h.dtype))
        return jax.nn.relu(x + self.outer(h))


class ResNet(ImageModel):
    """Image classifier: the stem, down-sampling and head of `ResDEQ` around blocks.

    Args:
        shape: sizes and options.
        depth: blocks in each stage.
        rngs: streams "params" and "dropout".

    Attributes:
        shape: sizes and options.
        stages: solves of one call, none.
        entries: the convolution before each stage.
        blocks: of each stage.
        head: from feature maps to logits.

    Raises:
        ValueError: a depth below 1, sizes that are not known, or the dtype "mixed".
    """

    def __init__(self, shape: ResidualShape, depth: int, *, rngs: nnx.Rngs) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        check_explicit(shape.dtype)
        shape.check_known()
        self.shape = shape
        self.stages = 0
        self.entries = entries(shape, rngs=rngs)
        self.blocks = nnx.List(
            nnx.List(ResidualBlock(shape, stage, rngs=rngs) for _ in range(depth))
            for stage in range(len(shape.channels))
        )
        self.head = PooledHead(shape, rngs=rngs)

    def __call__(
        self,
        images: jax.Array,
        *,
        probes: Sequence[BackwardStats] = (),
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        layers: int | None = None,
    ) -> ImagePrediction:
        """Classify images; see `ImageModel`. Nothing is solved: its options do nothing."""
        check_images(images, self.shape.image_channels)
        self.shape.check_size(*images.shape[1:3])
        check_probes(probes, self.stages)
        x = images
        for entry, blocks in zip(self.entries, self.blocks, strict=True):
            x = jax.nn.relu(entry(x))
            for block in blocks:
                x = block(x)
        return ImagePrediction(self.head(x), ())
