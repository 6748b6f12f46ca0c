"""A task tried without computing anything: its loss is followed for one batch, before all else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax._scores import is_score
from deqjax.adjoints import backward_steps
from deqjax.nn import reseed
from deqjax.training._dependence import depend_on
from deqjax.training._options import ConfigError
from deqjax.training.devices import AXIS
from deqjax.training.step import Batch, Loss, Problem, Weights, observed_loss


class Layer(NamedTuple):
    """An equilibrium layer's solve in a pass over a batch.

    Attributes:
        name: where it is in the model.
        max_steps: its own step limit, None where that is no plain number.
        tol: its own tolerance, likewise.
        backward_steps: the step limit of its backward solve, None where it has none or that is no
            plain number.
    """

    name: str
    max_steps: int | None
    tol: float | None
    backward_steps: int | None = None


def rehearse(
    problem: Problem, weights: Weights, batch: Batch, memory: Any, *, train: bool = True
) -> tuple[Layer, ...]:
    """The solves of a model in the order of its calls.

    Args:
        problem: the run's.
        weights: of the model.
        batch: of one device.
        memory: of its rows, or None.
        train: whether the model is in training mode, or in evaluation mode.

    Raises:
        ConfigError: what the task's loss returns is nothing that can be trained on, or the model
            changes something that would be lost.
    """
    layers: list[Layer] = []
    _check_rows(batch)

    def followed(weights: Weights, key: jax.Array, batch: Batch, memory: Any) -> jax.Array | None:
        model = problem.architecture.build(weights, train=train)
        reseed(model, key)
        before = _others(model)
        try:
            found, seen = observed_loss(problem, model, batch, memory, layers=1)
        except KeyError as error:
            if isinstance(batch.rows, dict):  # most likely one of these was meant
                error.args = (f"{error.args[0]} (a row has {', '.join(map(str, batch.rows))})",)
            raise
        layers.extend(
            Layer(
                each.layer,
                _number(each.max_steps, int),
                _number(each.tol, float),
                _number(backward_steps(each.adjoint), int),
            )
            for each in seen.solves
        )
        _check_others(before, _others(model))
        _check_loss(found, len(batch.counted), memory)
        return found.weights

    # batch normalizations average over the replicas, of which there is one here
    alone = jax.vmap(followed, axis_name=AXIS, axis_size=1, in_axes=None)
    program = jax.make_jaxpr(alone)(weights, jax.random.key(0), batch, memory)
    # their sum is known before the pass, which draws other numbers
    if any(depend_on(program, len(jax.tree.leaves(weights)) + 1)):
        raise ConfigError(
            "the weights that loss() returns depend on the model, or on what it draws at random; "
            "let them depend on the batch alone, and multiply the losses by what depends on the "
            "model."
        )
    return tuple(layers)


def _number(value: Any, kind: type) -> Any:
    return kind(value) if isinstance(value, int | float) else None


def _check_rows(batch: Batch) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch.rows):
        if np.asarray(leaf).dtype.kind not in "biufc" and not _is_extended(leaf):
            raise ConfigError(
                f"the rows' {jax.tree_util.keystr(path)} is {np.asarray(leaf).dtype}, which no "
                "device computes with; leave it out of what data() returns."
            )


def _is_extended(leaf: Any) -> bool:
    """Whether it is of one of JAX's own number types, such as bfloat16."""
    return bool(jnp.issubdtype(np.asarray(leaf).dtype, jnp.number))


def _check_loss(found: Any, rows: int, memory: Any) -> None:
    if not isinstance(found, Loss):
        raise ConfigError(
            f"loss() returns a {type(found).__name__}; return a deqjax.training.Loss with a number "
            "for each row."
        )
    losses = found.losses
    if np.shape(losses)[:1] != (rows,):
        raise ConfigError(
            f"loss() returns losses of shape {np.shape(losses)} for {rows} rows; return one number "
            "for each row (or target in it), not their mean: axis 0 is the rows."
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ConfigError(f"loss() returns losses of {losses.dtype}; return floating point.")
    weights = found.weights
    if weights is not None and np.shape(weights) != losses.shape[: np.ndim(weights)]:
        raise ConfigError(
            f"loss() returns weights of shape {np.shape(weights)} for losses of shape "
            f"{losses.shape}; give each row, or each target, one."
        )
    for name, each in found.counts.items():
        if not is_score(name):
            raise ConfigError(
                f"loss() returns a count {name!r}, which is the name of something that the engine "
                "records; choose another one."
            )
        if np.shape(each)[:1] != (rows,):
            raise ConfigError(
                f"loss() returns the count {name!r} of shape {np.shape(each)} for {rows} rows; "
                "axis 0 of a count is the rows."
            )
    if (memory is None) != (found.memory is None):
        raise ConfigError(
            "loss() must return a memory if, and only if, the task's memory() makes one."
        )


def _others(model: nnx.Module) -> dict[Any, Any]:
    """What is neither a parameter nor a running statistic nor a random stream."""
    state = nnx.state(model)
    kept = (nnx.Param, nnx.BatchStat, nnx.RngState, nnx.Intermediate)
    return {
        path: leaf.get_value()
        for path, leaf in nnx.to_flat_state(state)
        if not isinstance(leaf, kept)
    }


def _check_others(before: dict[Any, Any], after: dict[Any, Any]) -> None:
    changed = [path for path, value in after.items() if value is not before.get(path)]
    if changed:
        names = ", ".join(".".join(map(str, path)) for path in changed)
        raise ConfigError(
            f"the model changes {names} when it is called, which the engine does not carry from "
            "step to step; keep it in an nnx.BatchStat, or hand it on as the task's memory."
        )
