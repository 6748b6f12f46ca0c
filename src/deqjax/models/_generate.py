"""Sampling text from a language model."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models.transformer_lm import LanguageModel


def generate(
    model: LanguageModel, prompt: bytes, count: int, *, key: jax.Array, temperature: float = 1.0
) -> Iterator[int]:
    """Yield ``count`` bytes that continue the prompt.

    The model sees the last ``model.shape.length`` bytes. Shorter texts are padded on the right,
    which a causal model cannot see, so that one compiled function serves every length.

    Args:
        model: a byte language model in evaluation mode.
        prompt: at least one byte.
        count: bytes to generate.
        key: a JAX random key.
        temperature: of the softmax; 0 takes the most likely byte.

    Raises:
        ValueError: an empty prompt or a negative temperature or count.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character to continue.")
    if not temperature >= 0:
        raise ValueError(f"temperature must be zero or positive, got {temperature}.")
    if count < 0:
        raise ValueError(f"the number of bytes to generate must not be negative, got {count}.")
    length = model.shape.length
    graph, state = nnx.split(model)

    @jax.jit
    def next_byte(
        state: nnx.State, window: jax.Array, position: jax.Array, key: jax.Array
    ) -> jax.Array:
        logits = nnx.merge(graph, state, copy=True)(window[None]).logits[0, position, :256]
        scaled = logits / jnp.where(temperature > 0, temperature, 1)
        sampled = jax.random.categorical(key, scaled)
        return jnp.where(temperature > 0, sampled, jnp.argmax(logits))

    text = list(prompt)
    for index in range(count):
        recent = text[-length:]
        window = jnp.asarray(recent + [0] * (length - len(recent)), jnp.int32)
        drawn = next_byte(state, window, jnp.int32(len(recent) - 1), jax.random.fold_in(key, index))
        text.append(int(drawn))
        yield text[-1]
