"""Linen cells small enough to be unrolled."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from nn_cells import WIDTH

from deqjax.linen import DEQ
from deqjax.solvers import picard

layer = partial(DEQ, solver=picard, tol=1e-6, max_steps=60)
dense = partial(nn.Dense, WIDTH, kernel_init=nn.initializers.orthogonal(0.4))


class TanhCell(nn.Module):
    """dropout(tanh(W z + b + u))."""

    dropout: float = 0.0
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, z, u, deterministic=False):
        z = jnp.tanh(dense(param_dtype=self.dtype)(z) + u)
        return nn.Dropout(self.dropout, deterministic=deterministic)(z)


class MaskCell(nn.Module):
    """Shows its masks: f(z, u) holds 0 and 2, whatever z and u; one row of masks per use."""

    @nn.compact
    def __call__(self, z, u):
        ones = jnp.ones_like(u)
        rows = [nn.Dropout(0.5, deterministic=False)(ones) for _ in range(2)]
        keys = [self.make_rng("dropout") for _ in range(2)]  # of the cell's own scope
        rows += [2.0 * jax.random.bernoulli(key, shape=u.shape) for key in keys]
        return jnp.concatenate(rows, axis=1) + 0 * z


def params(variables):
    """Leaves by path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
