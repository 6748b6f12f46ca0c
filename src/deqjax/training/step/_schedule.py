"""The learning rate of each step, by the name of its schedule."""

import jax
import jax.numpy as jnp
import optax

from deqjax.training._options import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    r"""The learning rate at step t of T, r(t).

    All schedules rise linearly from 0 to the peak p in the first w = ``warmup_steps`` steps (T - 1
    if a run is shorter), r = p t / w, and then, with the end e = ``final_fraction`` p at t = T,

    - "cosine": r = e + (p - e) (1 + cos(pi (t - w) / (T - w))) / 2 (Loshchilov & Hutter, ICLR
      2017, arXiv 1608.03983, equation 5, without restarts);
    - "linear": r = p + (e - p) (t - w) / (T - w);
    - "constant": r = p;
    - "stable_decay": r = p up to step T - d, d = ``decay_fraction`` T rounded, but at least 1 and
      at most T - w, and r = p + (e - p) (t - T + d) / d from there (warm-up, stable, decay: Hu et
      al. 2024, arXiv 2404.06395, section 4, with a linear decay);
    - "inverse_square_root": r = p sqrt(w / t), w at least 1 (Vaswani et al., NeurIPS 2017, arXiv
      1706.03762, equation 3, in units of its peak); without a warm-up r = p / sqrt(1 + t).

    Args:
        config: names the schedule and its options.
        steps: T, of the whole run.

    Returns:
        t, () int32, -> r(t), () float32. Beyond T it stays where it has an end.
    """
    peak, warmup = config.learning_rate, min(config.warmup_steps, max(steps - 1, 0))
    end = peak * config.final_fraction
    match config.schedule:
        case "cosine":
            return optax.warmup_cosine_decay_schedule(
                init_value=0.0,
                peak_value=peak,
                warmup_steps=warmup,
                decay_steps=steps,
                end_value=end,
            )
        case "linear":
            after = optax.linear_schedule(peak, end, steps - warmup)
        case "constant":
            after = optax.constant_schedule(peak)
        case "stable_decay":
            decay = min(max(round(config.decay_fraction * steps), 1), steps - warmup)
            stable = steps - decay - warmup
            after = optax.linear_schedule(peak, end, decay, transition_begin=stable)
        case "inverse_square_root":
            after = _inverse_square_root(peak, max(warmup, 1))
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _inverse_square_root(peak: float, unit: int) -> optax.Schedule:
    """Steps after the peak -> p sqrt(unit / (unit + steps))."""

    def rate(step: jax.Array | int) -> jax.Array:
        # also asked during the warm-up, where its answer is thrown away but must be a number
        return peak * jnp.sqrt(unit / (unit + jnp.maximum(step, 0)))

    return rate
