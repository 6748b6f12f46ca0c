"""The block that prelude and head are made of: its parameters, made ready once, and its equations.

x <- x + a * attention(rms(x) * g_1),   x <- x + m * feed_forward(rms(x) * g_2)

with a = m = 1 in the prelude, and in the head gates per channel, gamma_max * sigmoid(raw).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models.attractor._shape import AttractorShape, Nonlinearity
from deqjax.nn import Weight, attention, rms_norm, rotate

# sigmoid is 1 nowhere: gates that start at their bound start this much of it below
_BELOW_ONE = 5e-6


class Matrix(NamedTuple):
    """A linear map x W + b in the dtype of its products; b (out,) or None."""

    kernel: jax.Array
    bias: jax.Array | None


class Gates(NamedTuple):
    """Factors (width,) of a head's two branches."""

    attention: jax.Array
    feed_forward: jax.Array


class BlockInputs(NamedTuple):
    """What a block needs besides x, ready to use.

    Attributes:
        attention_scale: (width,), g_1.
        qkv: from the width to queries, keys and values side by side.
        out: from the heads to the width.
        feed_scale: (width,), g_2.
        up: from the width to the hidden features.
        gate: likewise, what they are multiplied with; None without.
        down: back.
        gates: of the branches, None where they are 1.
        memory: keys, rotated and normalized, and values (batch, memory_length, key_heads, d) of
            the positions before; None for no memory.
    """

    attention_scale: jax.Array
    qkv: Matrix
    out: Matrix
    feed_scale: jax.Array
    up: Matrix
    gate: Matrix | None
    down: Matrix
    gates: Gates | None
    memory: tuple[jax.Array, jax.Array] | None


class Positions(NamedTuple):
    """Where the positions of a segment stand, shared by all blocks.

    Attributes:
        angles: (length, d / 2), of the segment's queries and keys.
        seen: (1 or batch, 1, length, memory_length + length) bool.
    """

    angles: jax.Array
    seen: jax.Array


class Linear(nnx.Module):
    """A kernel (in, out) with or without a bias (out,)."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, scale: float, rngs: nnx.Rngs
    ) -> None:
        self.weight = Weight(inputs, outputs, scale=scale, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def ready(self, dtype: jnp.dtype) -> Matrix:
        """Kernel and bias in the dtype of the products."""
        bias = None if self.bias is None else self.bias[...].astype(dtype)
        return Matrix(self.weight().astype(dtype), bias)


class Block(nnx.Module):
    """The parameters of a block; how they start is said in [`deqjax.models.AttractorLM`][].

    Args:
        shape: sizes and options.
        gated: whether its branches have gates, as the head's have where there are any.
        rngs: stream "params".
    """

    def __init__(self, shape: AttractorShape, *, gated: bool, rngs: nnx.Rngs) -> None:
        width, keys, bias = shape.width, shape.groups * shape.head_width, shape.bias
        back = 2 * shape.blocks

        def linear(inputs: int, outputs: int, divisor: int = 1) -> Linear:
            # relative to LeCun's variance 1 / inputs
            scale = math.sqrt(2 * inputs / (5 * width * divisor))
            return Linear(inputs, outputs, bias=bias, scale=scale, rngs=rngs)

        self.shape = shape
        self.attention_scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.query = linear(width, width)
        self.key = linear(width, keys)
        self.value = linear(width, keys)
        self.out = linear(width, width, back)
        self.feed_scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.up = linear(width, shape.hidden)
        self.gate = linear(width, shape.hidden) if shape.gated else None
        self.down = linear(shape.hidden, width, back)
        has_gates = gated and shape.gate_start is not None
        self.attention_gate = nnx.Param(_raw_gates(shape)) if has_gates else None
        self.feed_gate = nnx.Param(_raw_gates(shape)) if has_gates else None

    def prepare(
        self, dtype: jnp.dtype, memory: jax.Array | None, memory_angles: jax.Array | None
    ) -> BlockInputs:
        """Everything that does not depend on x.

        Args:
            dtype: of the products.
            memory: (batch, memory_length, 2 key_heads d), keys as they were before the rotation
                and values, side by side; None for no memory.
            memory_angles: (memory_length, d / 2) of these positions.
        """
        parts = [each.ready(dtype) for each in (self.query, self.key, self.value)]
        biases = [part.bias for part in parts if part.bias is not None]
        qkv = Matrix(
            jnp.concatenate([part.kernel for part in parts], axis=1),
            jnp.concatenate(biases) if biases else None,
        )
        gates = None
        if self.attention_gate is not None and self.feed_gate is not None:
            bound = self.shape.gate_bound
            gates = Gates(
                bound * jax.nn.sigmoid(self.attention_gate[...]),
                bound * jax.nn.sigmoid(self.feed_gate[...]),
            )
        before = None
        if memory is not None and memory_angles is not None:
            keys, values = _by_heads(memory.astype(dtype), self.shape)
            before = (_placed(keys, memory_angles, self.shape), values)
        return BlockInputs(
            attention_scale=self.attention_scale[...],
            qkv=qkv,
            out=self.out.ready(dtype),
            feed_scale=self.feed_scale[...],
            up=self.up.ready(dtype),
            gate=None if self.gate is None else self.gate.ready(dtype),
            down=self.down.ready(dtype),
            gates=gates,
            memory=before,
        )


def _raw_gates(shape: AttractorShape) -> jax.Array:
    """What the sigmoid makes the gates of the start of, (width,)."""
    assert shape.gate_start is not None  # for the type checker: without it there are no gates
    share = min(shape.gate_start / shape.gate_bound, 1 - _BELOW_ONE)
    return jnp.full(shape.width, math.log(share / (1 - share)), jnp.float32)


def apply_block(
    x: jax.Array, inputs: BlockInputs, positions: Positions, shape: AttractorShape
) -> tuple[jax.Array, jax.Array]:
    """Apply a block to x (batch, length, width).

    Returns:
        x after it, in its dtype, and what later positions need of these,
        (batch, length, 2 key_heads d): keys before the rotation and values, side by side.
    """
    mixed, remembered = _attend(x, inputs, positions, shape)
    x = x + (mixed if inputs.gates is None else mixed * inputs.gates.attention)
    fed = _feed_forward(x, inputs, shape)
    x = x + (fed if inputs.gates is None else fed * inputs.gates.feed_forward)
    return x, remembered


def _attend(
    x: jax.Array, inputs: BlockInputs, positions: Positions, shape: AttractorShape
) -> tuple[jax.Array, jax.Array]:
    normal = rms_norm(x, epsilon=shape.norm_epsilon) * inputs.attention_scale
    queries, remembered = jnp.split(_linear(normal, inputs.qkv), [shape.width], axis=-1)
    queries = queries.reshape(*x.shape[:2], shape.heads, shape.head_width)
    keys, values = _by_heads(remembered, shape)
    queries, keys = (_placed(part, positions.angles, shape) for part in (queries, keys))
    if inputs.memory is not None:
        before_keys, before_values = inputs.memory
        keys = jnp.concatenate([before_keys, keys], axis=1)
        values = jnp.concatenate([before_values, values], axis=1)
    mixed = attention(queries, keys, values, positions.seen)
    return _linear(mixed.reshape(x.shape), inputs.out).astype(x.dtype), remembered


def _feed_forward(x: jax.Array, inputs: BlockInputs, shape: AttractorShape) -> jax.Array:
    normal = rms_norm(x, epsilon=shape.norm_epsilon) * inputs.feed_scale
    hidden = _activated(_linear(normal, inputs.up), shape.feed_forward)
    if inputs.gate is not None:
        hidden = hidden * _linear(normal, inputs.gate)
    return _linear(hidden, inputs.down).astype(x.dtype)


def _linear(x: jax.Array, matrix: Matrix) -> jax.Array:
    product = x.astype(matrix.kernel.dtype) @ matrix.kernel
    return product if matrix.bias is None else product + matrix.bias


def _activated(x: jax.Array, kind: Nonlinearity) -> jax.Array:
    match kind:
        case "relu2":
            return 0.5 * jnp.maximum(x, 0) ** 2
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "silu":
            return jax.nn.silu(x)


def _by_heads(remembered: jax.Array, shape: AttractorShape) -> tuple[jax.Array, jax.Array]:
    """Keys and values (batch, positions, key_heads, d)."""
    heads = (*remembered.shape[:2], shape.groups, shape.head_width)
    keys, values = jnp.split(remembered, 2, axis=-1)
    return keys.reshape(heads), values.reshape(heads)


def _placed(x: jax.Array, angles: jax.Array, shape: AttractorShape) -> jax.Array:
    """Queries or keys (batch, positions, heads, d), rotated to their positions and normalized."""
    turned = rotate(x, angles, pairs="neighbours")
    return rms_norm(turned) if shape.query_key_norm else turned
