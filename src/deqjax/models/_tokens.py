"""What every network of puzzles asks of its tokens."""

import jax
import jax.numpy as jnp


def check_rows(tokens: jax.Array) -> None:
    """Raise a ValueError for anything but whole numbers (batch, length)."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be whole numbers (batch, length), got {tokens.dtype} of shape "
            f"{tokens.shape}."
        )
