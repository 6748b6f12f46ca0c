"""The gradient that all rules are compared with: unrolled in float64, with a certificate."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deqjax._core import algebra
from deqjax._core.convolution import in_fast_layout
from deqjax._core.residual import residual_norm
from deqjax._core.types import Map, Operands, State
from deqjax.solvers import Solution, anderson

# Float64 level: z* is iterated to the first and accepted up to the second. The adjoint state's
# 1e-8 is an order of magnitude below the rounding of a float32 rule.
_TOL, _ACCEPTED, _ADJOINT_ACCEPTED = 1e-13, 1e-11, 1e-8

Unroll: TypeAlias = Callable[[Callable[[State], State]], State]
"""A differentiable iteration of f: from f to the state that it ends at."""


class TruthError(RuntimeError):
    """The float64 gradient did not converge, so that nothing can be compared with it."""


class Truth(NamedTuple):
    """z*, the gradient of <cotangent, z*>, and how well both are known."""

    value: State  # z*, float64 numpy arrays
    gradient: list[np.ndarray]  # of the floating-point leaves of args, in their order
    method: str  # what was unrolled
    residual: float  # worst sample's ||f(z*) - z*|| / ||f(z*)||
    adjoint_residual: float  # worst sample's ||J^T w + v - w|| / ||J^T w + v||


def unrolled_truth(
    f: Map, z0: State, args: tuple[Any, ...], cotangent: State, max_steps: int
) -> Truth:
    """Differentiate an iteration of f in float64 and check the result by the adjoint equation.

    Anderson acceleration finds z* first, to a residual of 1e-13. Then ``max_steps`` steps
    z + (f(z) - z) / 2 that start at z* are unrolled: their derivative converges, to rounding,
    where the eigenvalues of J = df/dz at z* lie within distance 2 of -1. Where it does not, the
    whole Anderson iteration from z0 is unrolled, which f need not contract for, but whose
    derivatives lag behind its iterates.

    A small residual of z proves no gradient. Therefore f(z) + b is iterated, with b = 0: its
    gradient is the adjoint state w, and the derivative has converged where w = J^T w + v with the
    cotangent v.

    Raises:
        TypeError: f narrows float64 values.
        TruthError: z* or the derivative did not converge.
    """
    with jax.enable_x64(True):
        z0, args, cotangent = widen((z0, args, cotangent))
        _check_keeps_float64(f, z0, args)
        f = in_fast_layout(f)
        floating, rebuild = split_floating(args)

        @jax.jit
        def solve(floating: list[Any]) -> Solution:
            return anderson(lambda z: f(z, *rebuild(floating)), z0, tol=_TOL, max_steps=max_steps)

        value, stats, *_ = solve(floating)
        residual = np.asarray(stats.residual)
        _check_converged("z*", residual, _ACCEPTED, "start nearer to it, allow more truth_steps")

        @functools.partial(jax.jit, static_argnames="unroll")
        def differentiate(floating: list[Any], unroll: Unroll) -> tuple[list[Any], jax.Array]:
            def product(floating: list[Any], b: State) -> jax.Array:
                end = unroll(lambda z: algebra.add(f(z, *rebuild(floating)), b))
                return jnp.sum(algebra.dot(cotangent, end))

            zero = jax.tree.map(jnp.zeros_like, z0)
            gradient, w = jax.grad(product, argnums=(0, 1))(floating, zero)
            _, pull = jax.vjp(lambda z: f(z, *rebuild(floating)), value)
            return gradient, residual_norm(w, algebra.add(pull(w)[0], cotangent), "relative")

        needed = max(1, int(jnp.max(stats.steps)))
        methods = {
            f"{max_steps} damped steps at z*": functools.partial(_damped, value, max_steps),
            f"{needed} steps of Anderson": functools.partial(_accelerated, z0, needed),
        }
        for name, unroll in methods.items():
            method, (gradient, error) = name, differentiate(floating, unroll)
            if np.all(error <= _ADJOINT_ACCEPTED):
                break
        _check_converged(
            "its derivative", np.asarray(error), _ADJOINT_ACCEPTED, "allow more truth_steps"
        )
        return Truth(
            jax.tree.map(np.asarray, value),
            [np.asarray(leaf) for leaf in gradient],
            method,
            float(residual.max()),
            float(np.max(error)),
        )


def _damped(start: State, steps: int, f: Callable[[State], State]) -> State:
    """Steps of damping 1/2, with about sqrt(steps) checkpoints."""
    length = math.isqrt(steps - 1) + 1

    def step(z: State, _: None) -> tuple[State, None]:
        return algebra.mix(z, f(z), 0.5), None

    @jax.checkpoint
    def segment(z: State) -> State:
        return lax.scan(step, z, length=length)[0]

    end: State = lax.scan(lambda z, _: (segment(z), None), start, length=length)[0]
    return end


def _accelerated(z0: State, steps: int, f: Callable[[State], State]) -> State:
    """Anderson acceleration with about sqrt(steps) checkpoints."""
    length = math.isqrt(steps) + 1
    # whole segments: the samples that have converged rest in the last one
    limit = length * math.ceil((steps + 1) / length) - 1
    return anderson(
        f, z0, tol=_TOL, max_steps=limit, differentiable=True, checkpoint_every=length
    ).value


def check_same_map(f: Map, z0: State, args: tuple[Any, ...], truth: State) -> None:
    """Raise unless the truth is a fixed point of f in the caller's own precision as well."""
    leaves = [leaf for leaf in jax.tree.leaves((z0, args)) if is_floating(leaf)]
    rounding = max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in leaves)
    z = jax.tree.map(lambda x, y: jnp.asarray(np.asarray(y).astype(x.dtype)), z0, truth)
    residual = float(jnp.max(residual_norm(z, f(z, *args), "relative")))
    if not residual <= math.sqrt(rounding):
        raise ValueError(
            "f is another function in float64 than in its own precision: at the float64 fixed "
            f"point its residual is {residual:.1e}; random numbers drawn inside f depend on the "
            "precision, so draw them before and pass them through args."
        )


def widen(tree: Any) -> Any:
    """Every floating-point leaf as a float64 array; integers and keys as they are."""

    def leaf(x: Any) -> Any:
        return jnp.asarray(np.asarray(x).astype(np.float64)) if is_floating(x) else x

    return jax.tree.map(leaf, tree)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf gets a gradient: real floating point."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def split_floating(args: Operands) -> tuple[list[Any], Callable[[list[Any]], Operands]]:
    """The floating-point leaves, and the function that puts others in their place."""
    leaves, structure = jax.tree.flatten(args)
    smooth = [is_floating(leaf) for leaf in leaves]

    def rebuild(floating: list[Any]) -> Operands:
        rest = iter(floating)
        filled = [next(rest) if s else leaf for leaf, s in zip(leaves, smooth, strict=True)]
        return jax.tree.unflatten(structure, filled)

    return [leaf for leaf, s in zip(leaves, smooth, strict=True) if s], rebuild


def _check_converged(what: str, residual: np.ndarray, accepted: float, way_out: str) -> None:
    failed = np.flatnonzero(~(residual <= accepted))
    if failed.size:
        raise TruthError(
            f"there is no float64 truth to compare with: {what} has a residual of "
            f"{np.max(residual[failed]):.1e} > {accepted:.0e} in samples {failed.tolist()}; "
            f"{way_out}, or leave these samples out."
        )


def _check_keeps_float64(f: Map, z0: State, args: tuple[Any, ...]) -> None:
    """Raise if f or its derivative narrows a float64 value: its float64 run would be no truth."""
    results = jax.tree.leaves(jax.eval_shape(f, z0, *args))
    narrow: Any = next((leaf.dtype for leaf in results if leaf.dtype != jnp.float64), None)
    if narrow is None:

        def product(z: State) -> Any:
            return jax.vjp(lambda z: f(z, *args), z)[1](z)

        narrow = next(_narrowed(jax.make_jaxpr(product)(z0).jaxpr), None)
    if narrow is not None:
        raise TypeError(
            f"f casts float64 values to {narrow}, so that it has no float64 gradient to compare "
            "with: cast to the dtype of z instead of a fixed one."
        )


def _narrowed(jaxpr: Any) -> Iterator[Any]:
    """The narrower floating-point dtypes that primitives make of float64 values."""
    for equation in jaxpr.eqns:
        inner = [p for p in jax.tree.leaves(equation.params) if _as_jaxpr(p) is not None]
        for parameter in inner:
            yield from _narrowed(_as_jaxpr(parameter))
        if inner or not any(_dtype(v) == jnp.float64 for v in equation.invars):
            continue
        for output in equation.outvars:
            dtype = _dtype(output)
            if jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64:
                yield dtype


def _as_jaxpr(parameter: Any) -> Any:
    """The jaxpr that a primitive's parameter is or holds, None if it is none."""
    jaxpr = getattr(parameter, "jaxpr", parameter)
    return jaxpr if hasattr(jaxpr, "eqns") else None


def _dtype(variable: Any) -> Any:
    # tokens and the like have no dtype
    return getattr(variable.aval, "dtype", np.dtype(bool))
