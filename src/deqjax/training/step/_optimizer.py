"""The optimizer, by its name."""

import jax
import jax.numpy as jnp
import optax

from deqjax.training._options import OptimizerConfig
from deqjax.training.step._muon import muon
from deqjax.training.step._schedule import learning_rate


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW, Muon with AdamW, or SGD with momentum, behind a clip of the global gradient norm.

    AdamW is by Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101, its decay times the learning rate;
    Muon and which parameters it has: `deqjax.training.step._muon`.

    Args:
        config: names the optimizer and its options.
        steps: of the whole run.
    """
    rate, decay = learning_rate(config, steps), config.weight_decay
    match config.kind:
        case "adamw":
            update = _adamw(config, rate)
        case "muon":
            update = muon(config, rate, _adamw(config, rate))
        case "sgd":
            update = optax.chain(
                optax.add_decayed_weights(decay),
                optax.sgd(rate, momentum=config.momentum, nesterov=config.nesterov),
            )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    def matrices(parameters: optax.Params) -> optax.Params:
        return jax.tree.map(lambda x: jnp.ndim(x) >= 2, parameters)

    return optax.adamw(rate, b2=config.beta2, weight_decay=config.weight_decay, mask=matrices)
