"""Which results of a program depend on which of its arguments."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

_CALLS = ("jit", "pjit", "closed_call", "core_call")


def depend_on(program: Any, count: int) -> list[bool]:
    """Whether each result of a program depends on the first so many of its arguments.

    Functions that are called are looked into, loops and branches are not: of those all results
    depend on all arguments.

    Args:
        program: of ``jax.make_jaxpr``.
        count: of arguments.
    """
    jaxpr = program.jaxpr
    return _followed(jaxpr, [index < count for index in range(len(jaxpr.invars))])


def _followed(jaxpr: Any, arguments: Sequence[bool]) -> list[bool]:
    found = {variable for variable, depends in zip(jaxpr.invars, arguments, strict=True) if depends}

    def depends(variable: Any) -> bool:
        return not isinstance(variable, core.Literal) and variable in found

    for step in jaxpr.eqns:
        given = [depends(variable) for variable in step.invars]
        if step.primitive.name in _CALLS and "jaxpr" in step.params:
            results = _followed(step.params["jaxpr"].jaxpr, given)
        else:
            results = [any(given)] * len(step.outvars)
        found |= {out for out, is_one in zip(step.outvars, results, strict=True) if is_one}
    return [depends(variable) for variable in jaxpr.outvars]
