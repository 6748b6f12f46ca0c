"""Cells small enough to be unrolled, and an oracle that unrolls them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

BATCH, WIDTH = 3, 8


class TanhCell(nnx.Module):
    """dropout(tanh(W z + b + u)); the spectral norm of W is ``scale``."""

    def __init__(self, *, scale=0.5, dropout=0.0, dtype=jnp.float32):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(
            WIDTH,
            WIDTH,
            kernel_init=nnx.initializers.orthogonal(scale),
            param_dtype=dtype,
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, z, u):
        return self.dropout(jnp.tanh(self.linear(z) + u))


class MaskCell(nnx.Module):
    """Shows its masks: f(z, u) holds 0 and 2, whatever z and u; one row of masks per layer."""

    def __init__(self, layers=1, uses=1):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(layers)])
        self.uses = uses

    def __call__(self, z, u):
        rows = [layer(jnp.ones_like(u)) for layer in self.layers for _ in range(self.uses)]
        return jnp.concatenate(rows, axis=1) + 0 * z


def injection(batch=BATCH, width=WIDTH):
    return jax.random.normal(jax.random.key(1), (batch, width))


def weights():
    """A linear functional of z*, so that a wrong Jacobian shows in the gradient."""
    return jnp.cos(jnp.arange(BATCH * WIDTH, dtype=float)).reshape(BATCH, WIDTH)


def unroll(f, u, z0=None, steps=120):
    """Plain iteration of f, differentiated step by step: the oracle of values and gradients."""
    z0 = jnp.zeros_like(u) if z0 is None else z0
    return lax.scan(lambda z, _: (f(z, u), None), z0, length=steps)[0]


def leaves(state):
    """The leaves of an NNX state by path."""
    return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}
