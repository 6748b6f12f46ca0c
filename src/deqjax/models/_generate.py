"""Sampling text from a language model."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models.transformer_lm import LanguageModel


def generate(
    model: LanguageModel, prompt: bytes, count: int, *, key: jax.Array, temperature: float = 1.0
) -> Iterator[int]:
    """Return an iterator over ``count`` bytes that continue the prompt.

    The model sees the last ``model.shape.length`` bytes. Shorter texts are padded on the right,
    which a causal model cannot see, so that one compiled function serves every length and
    every call.

    Args:
        model: a byte language model in evaluation mode.
        prompt: at least one byte.
        count: bytes to generate.
        key: a JAX random key.
        temperature: of the softmax; 0 takes the most likely byte.

    Raises:
        ValueError: an empty prompt, a byte outside the vocabulary, a negative temperature or count;
            at the call, before the first byte is asked for.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character to continue.")
    if not temperature >= 0:
        raise ValueError(f"temperature must be zero or positive, got {temperature}.")
    if count < 0:
        raise ValueError(f"the number of bytes to generate must not be negative, got {count}.")
    if max(prompt) >= model.shape.vocabulary:
        raise ValueError(
            f"the prompt holds the byte {max(prompt)}, but the model's vocabulary has "
            f"{model.shape.vocabulary} tokens; leave it out or train on a vocabulary of 256."
        )
    # a function of its own: a generator would raise the above only when its first byte is asked for
    return _continue(model, prompt, count, key, temperature)


def _continue(
    model: LanguageModel, prompt: bytes, count: int, key: jax.Array, temperature: float
) -> Iterator[int]:
    length = model.shape.length
    graph, state = nnx.split(model)
    text = list(prompt)
    for index in range(count):
        recent = text[-length:]
        window = jnp.asarray(recent + [0] * (length - len(recent)), jnp.int32)
        position, own_key = jnp.int32(len(recent) - 1), jax.random.fold_in(key, index)
        drawn = _next_byte(graph, state, window, position, own_key, jnp.float32(temperature))
        text.append(int(drawn))
        yield text[-1]


@functools.partial(jax.jit, static_argnums=0)
def _next_byte(
    graph: nnx.GraphDef[LanguageModel],
    state: nnx.State[Any, Any],
    window: jax.Array,
    position: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    """Draw the byte that follows a position of the window (length,) int32."""
    logits = nnx.merge(graph, state, copy=True)(window[None]).logits[0, position, :256]
    sampled = jax.random.categorical(key, logits / jnp.where(temperature > 0, temperature, 1))
    return jnp.where(temperature > 0, sampled, jnp.argmax(logits))
