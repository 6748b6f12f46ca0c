"""The three cells that the benchmarks share: f(z, weights, inputs) -> z' with random weights.

Weights and inputs are arguments, never constants of a compiled program, and axis 0 of the state and
of the inputs is the batch, so that a peer may map over samples. `torch_cells.py` holds the same
functions for PyTorch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

NAMES = ("matmul", "transformer", "mdeq")


class Cell(NamedTuple):
    """A layer, its weights and one batch.

    Attributes:
        name: "matmul", "transformer" or "mdeq".
        f: ``f(z, weights, inputs) -> z'``.
        weights: dict of float32 arrays.
        inputs: injection, array (batch, ...).
        z0: start, zeros; leaves (batch, ...).
        tol: relative residual that every contender has to reach.
        settings: sizes that f closes over, for its PyTorch twin.
    """

    name: str
    f: Callable[[Any, Any, Any], Any]
    weights: dict[str, jax.Array]
    inputs: Any
    z0: Any
    tol: float
    settings: dict[str, int]


def matmul_cell(batch: int = 64, width: int = 1024) -> Cell:
    """One width x width matrix product and tanh."""
    weight_key, input_key = jax.random.split(jax.random.key(0))
    weight = 0.9 * jax.random.normal(weight_key, (width, width)) / width**0.5
    # small inputs leave tanh steep: the radius stays near that of the weight
    injection = 0.3 * jax.random.normal(input_key, (batch, width))

    def f(z, weights, inputs):
        return jnp.tanh(z @ weights["weight"] + inputs)

    return Cell("matmul", f, {"weight": weight}, injection, jnp.zeros((batch, width)), 1e-4, {})


def transformer_cell(
    batch: int = 8, length: int = 64, width: int = 128, heads: int = 4, hidden: int = 2560
) -> Cell:
    """Causal attention and a feed-forward with post-LN, as in the language models."""
    keys = iter(jax.random.split(jax.random.key(0), 5))

    def normal(*shape):
        return jax.random.normal(next(keys), shape) / shape[0] ** 0.5

    weights = {
        "qkv": normal(width, 3 * width),
        "out": normal(width, width),
        "up": normal(width, hidden),
        "down": normal(hidden, width),
    }
    injection = jax.random.normal(next(keys), (batch, length, 3 * width))

    def layer_norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)

    def f(z, weights, inputs):
        parts = jnp.split(z @ weights["qkv"] + inputs, 3, axis=-1)
        q, k, v = (p.reshape(*z.shape[:2], heads, -1) for p in parts)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        h = layer_norm(z + attended.reshape(z.shape) @ weights["out"])
        return layer_norm(h + jax.nn.relu(h @ weights["up"]) @ weights["down"])

    z0 = jnp.zeros((batch, length, width))
    return Cell("transformer", f, weights, injection, z0, 1e-4, {"heads": heads})


def mdeq_cell(
    batch: int = 8, size: int = 32, channels: int = 24, groups: int = 8, expansion: int = 1
) -> Cell:
    """Two branches at size and size / 2 of a multiscale DEQ (Bai, Koltun & Kolter, NeurIPS 2020).

    A residual block of two 3x3 convolutions per branch, then fusion: a strided convolution down, a
    1x1 convolution and nearest up-sampling up, and a 1x1 convolution after the sum. NHWC. Channels
    as in the paper's two-branch CIFAR-10 recipe, whose blocks widen 5 times inside; expansion 1
    has less arithmetic for the same state, so that the solver's own cost weighs more. The gains of
    the normalizations make f contract.
    """
    keys = iter(jax.random.split(jax.random.key(0), 9))
    wide = expansion * channels

    def normal(window, inward, outward):
        shape = (window, window, inward, outward)
        return jax.random.normal(next(keys), shape) / (window * window * inward) ** 0.5

    weights = {}
    for branch in ("fine", "coarse"):
        weights[f"{branch}_1"] = normal(3, channels, wide)
        weights[f"{branch}_2"] = normal(3, wide, channels)
        weights[f"{branch}_post"] = normal(1, channels, channels)
    weights["down"] = normal(3, channels, channels)
    weights["up"] = normal(1, channels, channels)
    gains = {"fine_gain": 4.0, "coarse_gain": 1.0, "down_gain": 3.0, "up_gain": 0.5}
    weights |= {name: jnp.full((channels,), gain) for name, gain in gains.items()}
    injection = 2 * jax.random.normal(next(keys), (batch, size, size, channels))

    def f(z, weights, inputs):
        def block(z, branch, injected):
            y = jax.nn.relu(group_norm(convolve(z, weights[f"{branch}_1"]), groups))
            y = convolve(y, weights[f"{branch}_2"]) + injected
            y = weights[f"{branch}_gain"] * group_norm(y, groups) + z
            return group_norm(jax.nn.relu(y), groups)

        def post(y, branch):
            y = convolve(jax.nn.relu(y), weights[f"{branch}_post"])
            return group_norm(y, groups // 2)

        fine, coarse = block(z["fine"], "fine", inputs), block(z["coarse"], "coarse", 0)
        up = weights["up_gain"] * group_norm(convolve(coarse, weights["up"]), groups)
        down = group_norm(convolve(fine, weights["down"], stride=2), groups)
        down = weights["down_gain"] * down
        return {
            "fine": post(fine + up.repeat(2, axis=1).repeat(2, axis=2), "fine"),
            "coarse": post(coarse + down, "coarse"),
        }

    z0 = {
        "fine": jnp.zeros((batch, size, size, channels)),
        "coarse": jnp.zeros((batch, size // 2, size // 2, channels)),
    }
    return Cell("mdeq", f, weights, injection, z0, 1e-4, {"groups": groups})


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Same-size convolution, (batch, height, width, in) with (k, k, in, out); stride halves."""
    reach = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def group_norm(x: jax.Array, groups: int) -> jax.Array:
    """Zero mean and unit variance per sample and group of channels."""

    def group_mean(values):
        # channels first: XLA reduces over groups of neighboring channels slowly
        means = values.mean((1, 2)).reshape(len(values), groups, -1).mean(-1)
        return means.repeat(x.shape[-1] // groups, axis=-1)[:, None, None, :]

    x = x - group_mean(x)
    return x * lax.rsqrt(group_mean(jnp.square(x)) + 1e-5)


def full_size() -> list[Cell]:
    """The cells of the published figures."""
    return [matmul_cell(), transformer_cell(), mdeq_cell()]


def quick() -> list[Cell]:
    """Cells that compute in microseconds, to run the scripts' own logic."""
    return [
        matmul_cell(batch=3, width=16),
        transformer_cell(batch=2, length=4, width=8, heads=2, hidden=16),
        mdeq_cell(batch=2, size=4, channels=4, groups=2, expansion=1),
    ]
