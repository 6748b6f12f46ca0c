"""How good each rule's gradient is, against an unrolled one in float64."""

import functools
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from deqjax import solvers
from deqjax._core import algebra
from deqjax._core.residual import residual_norm
from deqjax._core.types import Map, Scalar, State
from deqjax._core.validate import check_count, check_map, check_state
from deqjax._fixed_point import fixed_point
from deqjax.adjoints import (
    Adjoint,
    BackwardStats,
    backward_probe,
    implicit,
    jacobian_free,
    neumann,
    phantom,
    reversible,
    shine,
    unrolled,
)
from deqjax.diagnostics._float64_truth import (
    Truth,
    check_same_map,
    is_floating,
    split_floating,
    unrolled_truth,
    widen,
)
from deqjax.diagnostics._table import aligned
from deqjax.solvers import Solution, Status, anderson, broyden

Solver: TypeAlias = Callable[..., Solution]

RuleEntry: TypeAlias = Adjoint | tuple[Solver, Adjoint]
"""A rule, or a rule with the solver that it needs."""


class RuleCheck(NamedTuple):
    """One rule's gradient g next to the true gradient t, both over all of ``args``.

    Attributes:
        cosine: <g, t> / (||g|| ||t||), 1 for the same direction.
        norm_ratio: ||g|| / ||t||.
        relative_error: ||g - t|| / ||t||.
        distance: ||z - z*|| / ||z*|| of the state that the rule's solver found, in the worst
            sample. Large if the solve ended early or at another fixed point than the truth.
        steps: backward steps of the slowest sample, from the probe.
        residual: backward residual of the worst sample, from the probe.
        status: worst backward [`deqjax.Status`][]; ``NOT_RUN`` for rules without a solve.
    """

    cosine: float
    norm_ratio: float
    relative_error: float
    distance: float
    steps: int
    residual: float
    status: Status


@dataclass(frozen=True)
class GradientCheck:
    """Every rule against the truth; ``print`` shows it as a table.

    Attributes:
        rows: rule name -> [`RuleCheck`][deqjax.diagnostics.RuleCheck].
        truth_method: the iteration that the truth was unrolled through.
        truth_residual: ||f(z*) - z*|| / ||f(z*)|| of the truth's worst sample, in float64.
        truth_adjoint_residual: ||J^T w + v - w|| / ||J^T w + v|| of the adjoint state w that the
            truth's unrolled derivative amounts to, worst sample.
    """

    rows: Mapping[str, RuleCheck]
    truth_method: str
    truth_residual: float
    truth_adjoint_residual: float

    def __str__(self) -> str:
        """A table with one line a rule, and how well the truth is known."""
        table = [
            ["", "", "norm", "relative", "distance", "backward", "backward", "backward"],
            ["rule", "cosine", "ratio", "error", "of z", "steps", "residual", "status"],
        ]
        for name, row in self.rows.items():
            numbers = [f"{row.cosine:.6f}", f"{row.norm_ratio:.4f}", f"{row.relative_error:.1e}"]
            status = row.status.name.lower().replace("_", " ")
            table.append(
                [
                    name,
                    *numbers,
                    f"{row.distance:.1e}",
                    str(row.steps),
                    f"{row.residual:.1e}",
                    status,
                ]
            )
        known = (
            f"truth: float64, unrolled through {self.truth_method}, residual "
            f"{self.truth_residual:.1e}, adjoint residual {self.truth_adjoint_residual:.1e}"
        )
        return f"{aligned(table)}\n{known}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def default_rules() -> dict[str, RuleEntry]:
    """The rules that `check_gradient` compares: name -> rule, or (solver, rule)."""
    return {
        "implicit": implicit(),
        "implicit, 3 steps": implicit(max_steps=3),
        "jacobian_free": jacobian_free(),
        "neumann(5)": neumann(5),
        "phantom(5)": phantom(5),
        "shine": (broyden, shine()),
        "shine, 5 refined": (broyden, shine(refine=5)),
        "reversible": (solvers.reversible, reversible()),
        "unrolled": unrolled(),
    }


def check_gradient(
    f: Map,
    z0: State,
    *args: Any,
    rules: Mapping[str, RuleEntry] | None = None,
    solver: Solver = anderson,
    tol: Scalar = 1e-5,
    max_steps: int = 50,
    truth_steps: int = 1000,
    key: jax.Array | None = None,
) -> GradientCheck:
    """Compare each rule's gradient of <v, z*> in ``args`` with the true one, for a random v.

    The rules run in the caller's precision, each with its own compilation. The truth is the float64
    unrolled gradient: z0 and args cast to float64, z* found to a residual of 1e-13, and reverse
    mode through ``truth_steps`` damped steps there (through Anderson's own iteration where these do
    not converge). It uses no implicit rule and is checked: in every sample the residual of z* must
    be under 1e-11, and the derivative must satisfy the adjoint equation w = J^T w + v to 1e-8.
    Otherwise the check raises, for a bad truth tells nothing.

    Only ``args`` are seen: what f closes over gets no gradient here and keeps its own precision.
    f must not cast to a fixed narrower dtype, and must not draw random numbers, which differ
    between precisions: draw masks before and pass them through ``args``.

    Time: a compilation for each rule and two or three for the truth. Memory: square-root
    checkpoints of the unrolled steps, in float64. For a few samples of a batch, not for a training
    loop; not under jit.

    Args:
        f: ``f(z, *args) -> z'``.
        z0: start, leaves (batch, ...), real floating point.
        *args: pytrees of arrays with at least one floating-point leaf; integers and keys pass
            through.
        rules: name -> adjoint, or a pair (solver, adjoint) for a rule that needs a solver of its
            own; [`default_rules`][deqjax.diagnostics.default_rules] if None.
        solver: forward solver of the rules that are no pair.
        tol: forward tolerance of the rules.
        max_steps: forward step limit of the rules; a Python int, since some are unrolled.
        truth_steps: most steps to z*, and damped steps that are unrolled there.
        key: for the cotangent v, standard normal in the dtypes of z0; ``jax.random.key(0)`` if
            None.

    Returns:
        [`GradientCheck`][deqjax.diagnostics.GradientCheck].

    Raises:
        ValueError, TypeError: a malformed problem, an f that narrows float64 or depends on the
            precision, args without gradient, a call under jit.
        deqjax.diagnostics.TruthError: the truth did not converge; the message names the samples.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> from deqjax.adjoints import implicit, jacobian_free
        >>> def f(z, weights, x):
        ...     return jnp.tanh(z @ weights + x)
        >>> weights, x = 0.5 * jnp.eye(3), jnp.ones((2, 3))
        >>> rules = {"implicit": implicit(), "jacobian_free": jacobian_free()}
        >>> check = deqjax.check_gradient(
        ...     f, jnp.zeros((2, 3)), weights, x, rules=rules, truth_steps=100
        ... )
        >>> for name, row in check.rows.items():
        ...     print(name, row.relative_error < 1e-4, round(row.cosine, 1))
        implicit True 1.0
        jacobian_free False 1.0
    """
    z0 = _check_arguments(f, z0, args, max_steps, truth_steps)
    chosen = _check_rules(default_rules() if rules is None else rules)
    v = _normal_like(jax.random.key(0) if key is None else key, z0)
    truth = unrolled_truth(f, z0, args, v, truth_steps)
    check_same_map(f, z0, args, truth.value)
    expected = _flat(truth.gradient)
    if not np.any(expected):
        raise ValueError("the true gradient in args is zero: z* does not depend on them.")
    rows = {}
    for name, entry in chosen.items():
        own_solver, adjoint = entry if isinstance(entry, tuple) else (solver, entry)
        found = _differentiate(f, z0, args, v, own_solver, adjoint, tol, max_steps)
        rows[name] = _compare(*found, expected, truth)
    return GradientCheck(rows, truth.method, truth.residual, truth.adjoint_residual)


def _differentiate(
    f: Map,
    z0: State,
    args: tuple[Any, ...],
    v: State,
    solver: Solver,
    adjoint: Adjoint,
    tol: Scalar,
    max_steps: int,
) -> tuple[list[Any], BackwardStats, State]:
    """The rule's gradient of <v, z>, its backward report, and z."""
    floating, rebuild = split_floating(args)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradients(floating: list[Any], probe: BackwardStats) -> tuple[jax.Array, State]:
        z = fixed_point(
            f,
            z0,
            *rebuild(floating),
            solver=solver,
            adjoint=adjoint,
            tol=tol,
            max_steps=max_steps,
            probe=probe,
        ).value
        return jnp.sum(algebra.dot(v, z)), z

    (gradient, report), z = gradients(floating, backward_probe(algebra.batch_size(z0)))
    return gradient, report, z


def _compare(
    gradient: list[Any], report: BackwardStats, z: State, expected: np.ndarray, truth: Truth
) -> RuleCheck:
    found = _flat(gradient)
    size, true_size = np.linalg.norm(found), np.linalg.norm(expected)
    with np.errstate(invalid="ignore", divide="ignore"):
        # a gradient of zero has no direction, and that of a failed rule may hold infinities
        cosine = found @ expected / (size * true_size)
        error = np.linalg.norm(found - expected)
    with jax.enable_x64(True):
        distance = np.max(residual_norm(widen(z), truth.value, "relative"))
    return RuleCheck(
        float(cosine),
        float(size / true_size),
        float(error / true_size),
        float(distance),
        int(np.max(report.steps)),
        float(np.max(report.residual)),
        Status(int(np.max(report.status))),
    )


def _flat(leaves: list[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).astype(np.float64).ravel() for leaf in leaves])


def _normal_like(key: jax.Array, z: State) -> State:
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)],
    )


def _check_arguments(
    f: Map, z0: State, args: tuple[Any, ...], max_steps: int, truth_steps: int
) -> State:
    leaves = jax.tree.leaves((z0, args))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError(
            "check_gradient compiles in two precisions and cannot run inside jit, grad or vmap: "
            "call it on concrete arrays."
        )
    z0 = check_state(z0)
    for name, count in (("max_steps", max_steps), ("truth_steps", truth_steps)):
        if type(count) is not int:
            raise TypeError(f"{name} must be a Python int, because it is a shape, got {count!r}.")
        check_count(name, count)
    if not any(is_floating(leaf) for leaf in jax.tree.leaves(args)):
        raise ValueError(
            "args have no floating-point leaf to differentiate in: pass parameters through args, "
            "for what f closes over cannot be seen."
        )
    check_map(jax.eval_shape(f, z0, *args), z0)
    return z0


def _check_rules(rules: Mapping[str, RuleEntry]) -> Mapping[str, RuleEntry]:
    for name, entry in rules.items():
        parts = entry if isinstance(entry, tuple) else (anderson, entry)
        if len(parts) != 2 or not all(callable(part) for part in parts):
            raise TypeError(
                f"rules[{name!r}] must be an adjoint or a pair (solver, adjoint), got {entry!r}."
            )
    return rules
