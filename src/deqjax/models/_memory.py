"""What a segment hands on to the next one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SegmentMemory(NamedTuple):
    """The last positions before a segment; no gradient flows into them.

    Each row holds its states at its end: the first ``memory_length - filled`` positions are zero
    and unseen, so that a first segment, without memory, needs no other shapes.

    Attributes:
        states: of a DEQ-Transformer the equilibria (batch, memory_length, width); of an explicit
            model what enters each layer, (batch, depth, memory_length, width); of a TrellisNet
            both parts of the equilibrium side by side, (batch, 1, 2 width).
        injection: of a DEQ-Transformer the part that makes queries, keys and values,
            (batch, memory_length, 3 width); None for the others.
        filled: (batch,) int32, positions that hold something.
    """

    states: jax.Array
    injection: jax.Array | None
    filled: jax.Array

    def extended(self, states: jax.Array, injection: jax.Array | None = None) -> "SegmentMemory":
        """The memory after a segment with these states and this injection."""
        length = states.shape[-2]
        return SegmentMemory(
            _last(self.states, states),
            None if self.injection is None else _last(self.injection, injection),
            jnp.minimum(self.filled + length, self.states.shape[-2]),
        )

    def cleared(self, fresh: jax.Array) -> "SegmentMemory":
        """The memory with the rows forgotten where ``fresh``, () or (batch,) bool."""
        return self._replace(filled=jnp.where(fresh, 0, self.filled))


def _last(old: jax.Array, new: jax.Array | None) -> jax.Array:
    if new is None:
        raise TypeError("this memory holds injections; give those of the segment.")
    length = old.shape[-2]
    joined = jnp.concatenate([old, new.astype(old.dtype)], axis=-2)
    return jax.lax.stop_gradient(joined[..., joined.shape[-2] - length :, :])
