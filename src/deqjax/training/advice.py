"""What a run's metrics warn of, and what to do about it."""

from collections.abc import Mapping

from deqjax.training.config import RunConfig

_FAR = 10.0  # times the tolerance: a residual above is no fixed point any more


def warnings(config: RunConfig, metrics: Mapping[str, float]) -> dict[str, str]:
    """A sentence for each direction whose solves fail too often, by a name of what is wrong.

    Args:
        config: the run, whose guard has the thresholds.
        metrics: means over some training steps.
    """
    found = {}
    solver = config.solver
    limits = {
        "forward": (solver.tol, f"--model.solver.max-steps {solver.max_steps}"),
        "backward": (
            solver.backward_tol,
            f"--model.solver.backward-max-steps {solver.backward_max_steps}",
        ),
    }
    for direction, (tol, limit) in limits.items():
        if f"{direction}_converged" not in metrics:
            continue
        diverged = metrics[f"{direction}_diverged"]
        unfinished = 1 - metrics[f"{direction}_converged"] - diverged
        residual = metrics[f"{direction}_residual"]
        if diverged > config.guard.diverged:
            found[f"{direction} diverged"] = (
                f"{diverged:.0%} of the {direction} solves diverge: raise --penalty.weight "
                f"{config.penalty.weight:g} or --model.solver.ridge {solver.ridge:g}, or lower "
                f"--optimizer.learning-rate {config.optimizer.learning_rate:g}"
            )
        elif unfinished > config.guard.unfinished and not residual <= _FAR * tol:
            found[f"{direction} unfinished"] = (
                f"{unfinished:.0%} of the {direction} solves stop at their limit, at a mean "
                f"residual of {residual:.1e} (tolerance {tol:g}): raise {limit} or "
                f"--penalty.weight {config.penalty.weight:g}"
            )
    return found
