"""The Transformer layer that the equilibrium models iterate and the explicit ones stack."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models._precision import cell_dtype
from deqjax.models._shape import TransformerShape
from deqjax.nn import (
    DropoutMask,
    Weight,
    distance_codes,
    divided,
    is_divided,
    masked,
    relative_attention,
    rms_norm,
    visible,
)


class LayerInputs(NamedTuple):
    """What a layer needs besides z, ready to use: nothing in it depends on z.

    Attributes:
        injection: (batch, length, 3 width) added to queries, keys and values, or
            (batch, length, 4 width), the last quarter added to the residual stream; None is none.
        memory_keys: (batch, memory_length, heads, d).
        memory_values: like memory_keys.
        distance_keys: (memory_length + length, heads, d).
        seen: (1 or batch, 1, length, memory_length + length) bool.
        content_bias: (heads, d).
        position_bias: (heads, d).
        qkv: (width, 3 width), or (width, 3, heads, d) where devices share the heads.
        out: (width, width), and its bias (width,).
        up: (width, hidden), and its bias (hidden,).
        down: (hidden, width), and its bias (width,).
        attention_mask: dropout mask (batch, heads, length, keys) or None; likewise the others,
            each (batch, 1, features).
    """

    injection: jax.Array | None
    memory_keys: jax.Array
    memory_values: jax.Array
    distance_keys: jax.Array
    seen: jax.Array
    content_bias: jax.Array
    position_bias: jax.Array
    qkv: jax.Array
    out: tuple[jax.Array, jax.Array]
    up: tuple[jax.Array, jax.Array]
    down: tuple[jax.Array, jax.Array]
    attention_mask: jax.Array | None
    out_mask: jax.Array | None
    hidden_mask: jax.Array | None
    down_mask: jax.Array | None


class TransformerLayer(nnx.Module):
    """Parameters of one layer with relative attention over a memory.

    Equations: ARCHITECTURE of the published DEQ-Transformer (Bai, Kolter & Koltun, NeurIPS 2019,
    arXiv 1909.01377, section 4; Bai, Koltun & Kolter, ICML 2021, arXiv 2106.14342).

    Layer norm has no parameters: gains would be free to raise the Jacobian's norm.
    """

    def __init__(self, shape: TransformerShape, *, rngs: nnx.Rngs) -> None:
        width, heads = shape.width, shape.heads
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}.")

        def weight(inputs: int, outputs: int) -> Weight:
            return Weight(
                inputs,
                outputs,
                normalized=shape.weight_norm,
                scale=shape.weight_scale,
                rngs=rngs,
            )

        self.shape = shape
        self.qkv = weight(width, 3 * width)
        self.distance = weight(width, width)
        self.out = weight(width, width)
        self.up = weight(width, shape.hidden)
        self.down = weight(shape.hidden, width)
        self.out_bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.up_bias = nnx.Param(jnp.zeros(shape.hidden, jnp.float32))
        self.down_bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.content_bias = nnx.Param(jnp.zeros((heads, width // heads), jnp.float32))
        self.position_bias = nnx.Param(jnp.zeros((heads, width // heads), jnp.float32))
        self.mask = DropoutMask(shape.dropout, rngs=rngs)
        self.attention_mask = DropoutMask(shape.attention_dropout, rngs=rngs)

    def prepare(
        self,
        injection: jax.Array | None,
        memory_states: jax.Array,
        memory_injection: jax.Array | None,
        filled: jax.Array,
        length: int,
    ) -> LayerInputs:
        """Everything that does not depend on z, computed once per segment.

        Args:
            injection: see `LayerInputs`.
            memory_states: (batch, memory_length, width), states before the segment.
            memory_injection: (batch, memory_length, 3 width), or None.
            filled: (batch,) int32, positions of the memory that hold something.
            length: of the segment.
        """
        shape = self.shape
        dtype = cell_dtype(shape.dtype, memory_states.dtype)
        batch, memory_length, width = memory_states.shape
        keys = memory_length + length
        heads = self.content_bias.shape

        def cast(x: jax.Array) -> jax.Array:
            return x.astype(dtype)

        qkv = cast(self.qkv())
        # the memory stands still during a solve, and so do its keys and values
        before = layer_norm(memory_states) if shape.pre_layer_norm else memory_states
        kv = cast(before) @ qkv[:, width:]
        if memory_injection is not None:
            kv = kv + cast(memory_injection[..., width:])
        memory_keys, memory_values = (
            part.reshape(batch, memory_length, *heads) for part in jnp.split(kv, 2, axis=-1)
        )
        memory_keys, memory_values = divided(memory_keys, 2), divided(memory_values, 2)
        codes = masked(distance_codes(keys, width).astype(dtype), self.mask((1, width), dtype))
        return LayerInputs(
            injection=injection,
            memory_keys=memory_keys,
            memory_values=memory_values,
            distance_keys=divided((codes @ cast(self.distance())).reshape(keys, *heads), 1),
            seen=visible(
                length,
                memory_length,
                horizon=shape.horizon,
                filled=filled if memory_length else None,
            ),
            content_bias=cast(self.content_bias[...]),
            position_bias=cast(self.position_bias[...]),
            qkv=_by_heads(qkv, heads),
            out=(
                divided(cast(self.out()).reshape(*heads, width), 0).reshape(width, width),
                self.out_bias[...],
            ),
            up=(cast(self.up()), cast(self.up_bias[...])),
            down=(cast(self.down()), self.down_bias[...]),
            attention_mask=self.attention_mask((batch, heads[0], length, keys), dtype),
            out_mask=self.mask((batch, 1, width), memory_states.dtype),
            hidden_mask=self.mask((batch, 1, shape.hidden), dtype),
            down_mask=self.mask((batch, 1, width), memory_states.dtype),
        )


def _by_heads(qkv: jax.Array, heads: tuple[int, ...]) -> jax.Array:
    """A matrix (width, 3 width), or (width, 3, heads, d) if the heads are divided over devices."""
    parts = qkv.reshape(len(qkv), 3, *heads)
    # one axis of 3 width could not be divided by heads
    return divided(parts, 2) if is_divided(parts, 2) else qkv


def attend(c: jax.Array, inputs: LayerInputs) -> jax.Array:
    """The output of attention to the memory and to c (batch, length, width), in c's dtype.

    [q, k, v] = c W_qkv + u,  a = heads W_o + b_o.
    """
    width = c.shape[-1]
    qkv = jnp.tensordot(c.astype(inputs.qkv.dtype), inputs.qkv, 1)
    if inputs.injection is not None:
        qkv = qkv + inputs.injection[..., : 3 * width].astype(qkv.dtype).reshape(qkv.shape)
    q, k, v = jnp.moveaxis(qkv.reshape(*c.shape[:2], 3, *inputs.content_bias.shape), 2, 0)
    mixed = relative_attention(
        q,
        jnp.concatenate([inputs.memory_keys, k], axis=1),
        jnp.concatenate([inputs.memory_values, v], axis=1),
        inputs.distance_keys,
        inputs.content_bias,
        inputs.position_bias,
        inputs.seen,
        inputs.attention_mask,
    )
    weight, bias = inputs.out
    a = (mixed.reshape(c.shape) @ weight).astype(c.dtype) + bias
    return masked(a.astype(c.dtype), inputs.out_mask)


def feed_forward(h: jax.Array, inputs: LayerInputs) -> jax.Array:
    """relu(h W_1 + b_1) W_2 + b_2 of h (batch, length, width), in h's dtype."""
    (up, up_bias), (down, down_bias) = inputs.up, inputs.down
    hidden = masked(jax.nn.relu(h.astype(up.dtype) @ up + up_bias), inputs.hidden_mask)
    result = (hidden @ down).astype(h.dtype) + down_bias
    return masked(result.astype(h.dtype), inputs.down_mask)


def layer_norm(x: jax.Array) -> jax.Array:
    """(x - mean) / sqrt(variance + 1e-5) over the features, without parameters."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return rms_norm(wide - jnp.mean(wide, axis=-1, keepdims=True), epsilon=1e-5).astype(x.dtype)
