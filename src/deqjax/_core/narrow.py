"""A map whose products are formed in a narrower floating-point type, everything else as it was.

What costs are matrix products and convolutions: their operands are rounded, and what they give is
widened again at once. Every value keeps its type, so norms, exponentials, sums and the state itself
lose nothing, and a map of any making can be narrowed: it is its trace that is rewritten.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from deqjax._core.hoist import PureMap, hoist
from deqjax._core.types import Map, Operands, State

# bilinear in their first two operands
_PRODUCTS = {"dot_general", "conv_general_dilated", "convolution"}
# functions that stand for their equations; others, such as loops, are rebuilt around theirs
_CALLS = {"jit", "pjit", "closed_call", "checkpoint", "remat"}

Dtype = np.dtype[Any]


def narrowed(f: PureMap, operands: Operands, z0: State, low: Dtype) -> Map | None:
    """F with products of the low type, as a function of z alone; None where it has no wider ones.

    Operands of products that do not depend on z (weights) are rounded here, before any loop.
    """
    if not _narrows(f.jaxpr, low):
        return None
    constants, leaves = operands

    def narrow_f(z: State) -> State:
        given = [*jax.tree.leaves(z), *leaves]
        return jax.tree.unflatten(f.structure, _evaluate(f.jaxpr, constants, given, low))

    return _standing_rounded(*hoist(narrow_f, z0, ())[1:])


def _standing_rounded(f: PureMap, operands: Operands) -> Map:
    """F with the conversions of what does not depend on z done already."""
    jaxpr, (constants, _) = f.jaxpr, operands
    standing, of_state = _inputs(jaxpr)[: len(constants)], _inputs(jaxpr)[len(constants) :]
    moving = set(of_state)
    for equation in jaxpr.eqns:
        if moving.intersection(_variables(equation.invars)):
            moving.update(equation.outvars)
    rounded = [
        equation.outvars[0]
        for equation in jaxpr.eqns
        if equation.primitive.name == "convert_element_type" and equation.outvars[0] not in moving
    ]
    before, after = _divided(jaxpr.eqns, rounded)
    first = _with(jaxpr, standing, [], rounded, before)
    rest = _with(jaxpr, [*standing, *rounded], of_state, jaxpr.outvars, after)
    values = [*constants, *jax.core.eval_jaxpr(first, constants)]

    def evaluate(z: State) -> State:
        outputs = jax.core.eval_jaxpr(rest, values, *jax.tree.leaves(z))
        return jax.tree.unflatten(f.structure, outputs)

    return evaluate


def _divided(equations: Sequence[Any], wanted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The equations that lead to what is wanted, and those that are left where that is known."""
    needed, before, after = set(wanted), list[Any](), list[Any]()
    given = set(wanted)
    for equation in reversed(equations):
        if needed.intersection(equation.outvars):
            needed.update(_variables(equation.invars))
            before.append(equation)
        if not given.issuperset(equation.outvars):
            after.append(equation)
    return before[::-1], after[::-1]


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


def _evaluate(jaxpr: Any, constants: Any, arguments: Any, low: Dtype) -> list[Any]:
    """The outputs of a jaxpr whose products are narrowed, at any depth."""
    known: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    # JAX 0.12 counts variables of constants among the inputs where no constants are attached
    known.update(zip(_inputs(jaxpr), [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        with equation.ctx.manager:
            outputs = _apply(equation, [read(atom) for atom in equation.invars], low)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, inputs: list[Any], low: Dtype) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    if _is_wide_product(equation, low):
        return [_product(equation, inputs, low)]
    if any(_narrows(jaxpr, low) for jaxpr in core.jaxprs_in_params(params)):
        if primitive.name in _CALLS:
            jaxpr, constants = _opened(params["jaxpr"])
            return _evaluate(jaxpr, constants, inputs, low)
        params = {name: _rebuilt(value, low) for name, value in params.items()}
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _product(equation: Any, inputs: list[Any], low: Dtype) -> jax.Array:
    params = dict(equation.params)
    if "precision" in params:
        # a device may multiply float32 in fewer digits than asked for here
        params["precision"] = lax.Precision.HIGHEST if low == np.float32 else None
    if "preferred_element_type" in params:
        # not the wide type, which XLA's CPU kernel for some matrix products refuses
        params["preferred_element_type"] = None
    rounded = (lax.convert_element_type(x, low) for x in inputs)
    result = equation.primitive.bind(*rounded, **params)
    return lax.convert_element_type(result, equation.outvars[0].aval.dtype)


def _is_wide_product(equation: Any, low: Dtype) -> bool:
    if equation.primitive.name not in _PRODUCTS:
        return False
    kinds = [atom.aval.dtype for atom in equation.invars]
    real = all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    return real and any(kind.itemsize > low.itemsize for kind in kinds)


def _narrows(jaxpr: Any, low: Dtype) -> bool:
    """Whether there is a product to narrow, at any depth."""
    jaxpr, _ = _opened(jaxpr)
    return any(
        _is_wide_product(equation, low)
        or any(_narrows(inner, low) for inner in core.jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


def _rebuilt(value: Any, low: Dtype) -> Any:
    """A parameter of an equation: a jaxpr in it (or several) narrowed, anything else as it is."""
    if isinstance(value, tuple | list):
        return type(value)(_rebuilt(each, low) for each in value)
    if not isinstance(value, core.Jaxpr | core.ClosedJaxpr) or not _narrows(value, low):
        return value
    jaxpr, constants = _opened(value)

    def run(*arguments: Any) -> list[Any]:
        return _evaluate(jaxpr, constants, arguments, low)

    closed = jax.make_jaxpr(run)(*(variable.aval for variable in jaxpr.invars))
    if isinstance(value, core.ClosedJaxpr):
        return closed
    return value if closed.consts else closed.jaxpr


def _inputs(jaxpr: Any) -> list[Any]:
    """The variables that a jaxpr is given: those of constants first."""
    return [*jaxpr.constvars, *jaxpr.invars]


def _opened(jaxpr: Any) -> tuple[Any, Any]:
    """A jaxpr, closed or not, and the arrays that it has captured."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())
