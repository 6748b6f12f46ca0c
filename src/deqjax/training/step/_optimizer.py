"""The optimizer with its learning-rate schedule."""

import jax
import jax.numpy as jnp
import optax

from deqjax.training._options import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then cosine decay until the last step."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, max(steps - 1, 0)),
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW, or SGD with momentum, behind a clip of the global gradient norm."""

    def matrices(parameters: optax.Params) -> optax.Params:
        return jax.tree.map(lambda x: jnp.ndim(x) >= 2, parameters)

    rate, decay = learning_rate(config, steps), config.weight_decay
    match config.kind:
        case "adamw":
            update = optax.adamw(rate, b2=config.beta2, weight_decay=decay, mask=matrices)
        case "sgd":
            update = optax.chain(
                optax.add_decayed_weights(decay),
                optax.sgd(rate, momentum=config.momentum, nesterov=config.nesterov),
            )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
