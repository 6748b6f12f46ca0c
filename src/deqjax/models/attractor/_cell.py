"""The map whose fixed point the attractor language model reads: its head, around a context."""

from typing import NamedTuple

import jax
from flax import nnx

from deqjax.models.attractor._block import Block, BlockInputs, Positions, apply_block
from deqjax.models.attractor._shape import AttractorShape


class AttractorInputs(NamedTuple):
    """What the head needs besides y, ready to use: nothing in it depends on y.

    Attributes:
        context: c, (batch, length, width), what the prelude makes of the tokens.
        blocks: of the head.
        positions: where the segment stands.
    """

    context: jax.Array
    blocks: tuple[BlockInputs, ...]
    positions: Positions


class AttractorCell(nnx.Module):
    """f(y, c) = head(y + c) - y.

    The head is a stack of pre-norm blocks, head(x) = x + g(x), so that f(y) = c + g(y + c): what is
    added to the context is refined until it agrees with itself.

    Args:
        shape: sizes and options.
        rngs: stream "params".

    Attributes:
        shape: sizes and options.
        blocks: of the head.
    """

    def __init__(self, shape: AttractorShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.blocks = nnx.List(
            [Block(shape, gated=True, rngs=rngs) for _ in range(shape.head_layers)]
        )

    def __call__(self, y: jax.Array, u: AttractorInputs) -> jax.Array:
        """Apply the map to y (batch, length, width)."""
        x, _ = self.head(y, u)
        return x - y

    def head(self, y: jax.Array, u: AttractorInputs) -> tuple[jax.Array, list[jax.Array]]:
        """Of y + c; with what later positions need of each block; see `apply_block`."""
        return apply_blocks(y + u.context, u.blocks, u.positions, self.shape)


def apply_blocks(
    x: jax.Array,
    blocks: tuple[BlockInputs, ...],
    positions: Positions,
    shape: AttractorShape,
    *,
    recompute: bool = False,
) -> tuple[jax.Array, list[jax.Array]]:
    """A stack of blocks; see `apply_block`, and `jax.checkpoint` for what is computed again."""
    apply = jax.checkpoint(apply_block, static_argnums=3) if recompute else apply_block
    remembered = []
    for block in blocks:
        x, kept = apply(x, block, positions, shape)
        remembered.append(kept)
    return x, remembered
