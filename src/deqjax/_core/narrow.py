"""A map whose products are formed in a narrower floating-point type, everything else as it was.

What costs are matrix products and convolutions: their operands are rounded, and what they give is
widened again at once. Every value keeps its type, so norms, exponentials, sums and the state itself
lose nothing, and a map of any making can be narrowed: it is its trace that is rewritten.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from deqjax._core.hoist import PureMap, hoist
from deqjax._core.substitute import rewritten
from deqjax._core.types import Map, Operands, State

# bilinear in their first two operands
_PRODUCTS = {"dot_general", "conv_general_dilated", "convolution"}
# functions that stand for their equations
_CALLS = {"jit", "pjit", "closed_call", "checkpoint", "remat"}

Dtype = np.dtype[Any]


def narrowed(f: PureMap, operands: Operands, z0: State, low: Dtype) -> Map | None:
    """F with products of the low type, as a function of z alone; None where it has no wider ones.

    Operands of products that do not depend on z (weights) are rounded here, before any loop.
    """
    jaxpr = rewritten(f.jaxpr, functools.partial(_with_narrow_product, low=low))
    if jaxpr is f.jaxpr:
        return None
    constants, leaves = operands

    def narrow_f(z: State) -> State:
        given = [*constants, *jax.tree.leaves(z), *leaves]
        return jax.tree.unflatten(f.structure, _without_calls(jaxpr, given))

    return _standing_rounded(*hoist(narrow_f, z0, ())[1:])


def _with_narrow_product(equation: Any, low: Dtype) -> Any:
    """The equation, or a call of a narrow product in the place of a wider one."""
    if not _is_wide_product(equation, low):
        return equation

    @jax.jit
    def narrow_product(*operands: jax.Array) -> jax.Array:
        return _product(equation, operands, low)

    kinds = [each.aval for each in equation.invars]
    with equation.ctx.manager:
        (call,) = jax.make_jaxpr(narrow_product)(*kinds).jaxpr.eqns
    return call.replace(
        invars=equation.invars,
        outvars=equation.outvars,
        source_info=equation.source_info,
        ctx=equation.ctx,
    )


def _is_wide_product(equation: Any, low: Dtype) -> bool:
    if equation.primitive.name not in _PRODUCTS:
        return False
    kinds = [atom.aval.dtype for atom in equation.invars]
    real = all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    return real and any(kind.itemsize > low.itemsize for kind in kinds)


def _product(equation: Any, operands: Sequence[jax.Array], low: Dtype) -> jax.Array:
    params = dict(equation.params)
    if "precision" in params:
        # a device may multiply float32 in fewer digits than asked for here
        params["precision"] = lax.Precision.HIGHEST if low == np.float32 else None
    if "preferred_element_type" in params:
        # not the wide type, which XLA's CPU kernel for some matrix products refuses
        params["preferred_element_type"] = None
    rounded = (lax.convert_element_type(x, low) for x in operands)
    result = equation.primitive.bind(*rounded, **params)
    return lax.convert_element_type(result, equation.outvars[0].aval.dtype)


def _without_calls(jaxpr: Any, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr, with what it calls, at any depth, spelled out where it is called."""
    known = dict(zip(_inputs(jaxpr), inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        given, params = [read(atom) for atom in equation.invars], equation.params
        with equation.ctx.manager:
            if equation.primitive.name in _CALLS:
                # closed, or in JAX 0.12 one that may be
                called, constants = params["jaxpr"], getattr(params["jaxpr"], "consts", ())
                called = getattr(called, "jaxpr", called)
                outputs = _without_calls(called, [*constants, *given])
            else:
                found = equation.primitive.bind(
                    *given, **equation.primitive.get_bind_params(params)
                )
                outputs = found if equation.primitive.multiple_results else [found]
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _standing_rounded(f: PureMap, operands: Operands) -> Map:
    """F with the conversions of what does not depend on z done already.

    XLA moves them out of its loops for CPUs and TPUs; for GPUs nothing says that it does.
    """
    jaxpr, (constants, _) = f.jaxpr, operands
    standing, of_state = _inputs(jaxpr)[: len(constants)], _inputs(jaxpr)[len(constants) :]
    moving, fixed = set(of_state), list[Any]()
    for equation in jaxpr.eqns:
        if equation.effects or moving.intersection(_variables(equation.invars)):
            moving.update(equation.outvars)
        else:
            fixed.append(equation)
    rounded = [
        equation.outvars[0]
        for equation in fixed
        if equation.primitive.name == "convert_element_type"
    ]
    known = set(rounded)
    left = [equation for equation in jaxpr.eqns if known.isdisjoint(equation.outvars)]
    # of either, the compiler leaves out what nothing needs
    first = _with(jaxpr, standing, [], rounded, fixed)
    rest = _with(jaxpr, [*standing, *rounded], of_state, jaxpr.outvars, left)
    values = [*constants, *jax.jit(functools.partial(jax.core.eval_jaxpr, first))(constants)]

    def evaluate(z: State) -> State:
        outputs = jax.core.eval_jaxpr(rest, values, *jax.tree.leaves(z))
        return jax.tree.unflatten(f.structure, outputs)

    return evaluate


def _with(
    jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any], outputs: Any, equations: Any
) -> Any:
    return jaxpr.replace(
        constvars=list(constants),
        invars=list(inputs),
        outvars=list(outputs),
        eqns=equations,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )


def _variables(atoms: Sequence[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not isinstance(atom, core.Literal))


def _inputs(jaxpr: Any) -> list[Any]:
    """The variables that a jaxpr is given: those of constants first.

    JAX 0.12 counts them among the inputs where no constants are attached.
    """
    return [*jaxpr.constvars, *jaxpr.invars]
