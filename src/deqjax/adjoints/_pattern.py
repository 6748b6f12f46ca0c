"""The one `custom_vjp` that the rules share.

At z* = f(z*, a) a cotangent v of z* becomes the cotangent (df/da)^T w of the operands a, where w
approximates (I - J^T)^-1 v. A rule is the way from v to w; everything else is here.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import _tree
from deqjax._hoist import PureMap
from deqjax._types import Operands, PerSample, Scalar, State
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution

Transpose: TypeAlias = Callable[[State], State]
"""w -> J^T w at the fixed point, linearized once."""


class Adjoint(Protocol):
    """A rule for gradients: solves z = f(z, operands) and says how the result differentiates."""

    def __call__(
        self,
        f: PureMap,
        z0: State,
        operands: Operands,
        *,
        solver: Callable[..., Solution],
        tol: Scalar,
        max_steps: Scalar,
        probe: BackwardStats | None,
    ) -> Solution:
        """Return the solution, differentiable in the operands."""


class Rule(Protocol):
    """The way from the cotangent v of z* to the adjoint state w."""

    def __call__(
        self, transpose: Transpose, cotangent: State, controls: Any
    ) -> tuple[State, BackwardStats]:
        """Return w and how it was found; the cotangent's samples are scaled to about 1."""


def solve_with_rule(
    rule: Rule,
    f: PureMap,
    z0: State,
    operands: Operands,
    *,
    solver: Callable[..., Solution],
    tol: Scalar,
    max_steps: Scalar,
    controls: Any,
    probe: BackwardStats | None,
) -> Solution:
    """Solve forward with the solver; differentiate backward with the rule.

    ``controls`` are the rule's own run-time numbers (tolerances, step limits). Only z* and the
    operands are kept for the backward pass, so memory does not depend on the number of steps.
    """
    leaves, structure = jax.tree.flatten(operands)
    smooth = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

    def evaluate(z: State, continuous: list[Any], discrete: list[Any]) -> State:
        values = {True: iter(continuous), False: iter(discrete)}
        return f(z, jax.tree.unflatten(structure, [next(values[kind]) for kind in smooth]))

    @jax.custom_vjp
    def solve(
        z0: State, continuous: Any, discrete: Any, limits: Any, controls: Any, probe: Any
    ) -> Solution:
        del controls, probe  # for the backward pass
        tol, max_steps = limits
        return solver(lambda z: evaluate(z, continuous, discrete), z0, tol=tol, max_steps=max_steps)

    def forward(*inputs: Any) -> tuple[Solution, Any]:
        # through `solve` itself: a second derivative differentiates z* by the rule again
        solution = solve(*inputs)
        _, continuous, discrete, _, controls, probe = inputs
        return solution, (solution.value, continuous, discrete, controls, probe is not None)

    def backward(kept: Any, cotangents: Solution) -> tuple[Any, ...]:
        value, continuous, discrete, controls, probed = kept
        _, pull = jax.vjp(lambda z, a: evaluate(z, a, discrete), value, continuous)
        scale = _cotangent_scale(cotangents.value)
        adjoint, report = rule(
            lambda w: pull(w)[0], _rescale(cotangents.value, 1 / scale), controls
        )
        gradient = pull(_rescale(adjoint, scale))[1]
        probe = jax.tree.map(lambda x: x.astype(jnp.float32), report) if probed else None
        # the solution does not depend on z0, and None is a zero cotangent
        return None, gradient, None, None, None, probe

    solve.defvjp(forward, backward)
    continuous = [leaf for leaf, kind in zip(leaves, smooth, strict=True) if kind]
    discrete = [leaf for leaf, kind in zip(leaves, smooth, strict=True) if not kind]
    limits = (jnp.asarray(tol, _tree.accumulation_dtype(z0)), jnp.asarray(max_steps, jnp.int32))
    solution: Solution = solve(z0, continuous, discrete, limits, controls, probe)
    return solution._replace(stats=lax.stop_gradient(solution.stats))


def _cotangent_scale(cotangent: State) -> PerSample:
    """Power of two next to each sample's largest magnitude, so that rescaling rounds nothing.

    The mean over a large batch with loss scaling undone can leave cotangents near 1e-30, whose
    squares vanish in float32. A zero or non-finite sample keeps scale 1: the solve reports it.
    """
    peak = lax.stop_gradient(_tree.largest(cotangent))
    info = jnp.finfo(peak.dtype)
    usual = (peak > 0) & jnp.isfinite(peak)
    bounded = jnp.clip(jnp.where(usual, peak, 1), 4 * info.tiny, info.max / 4)
    scale: PerSample = lax.reduce_precision(bounded, exponent_bits=info.nexp, mantissa_bits=0)
    return scale


def _rescale(state: State, values: PerSample) -> State:
    # the product is formed wide: a float16 leaf may not hold the scale itself
    return jax.tree.map(
        lambda x: (x.astype(values.dtype) * _tree.per_sample(values, x)).astype(x.dtype), state
    )
