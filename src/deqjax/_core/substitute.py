"""Putting one primitive in the place of another, in all equations of a jaxpr."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Primitives: TypeAlias = Mapping[Any, Any]
"""Primitive -> the one that takes its place: same operands, parameters and results."""


def substituted(jaxpr: Any, primitives: Primitives) -> Any:
    """The jaxpr, open or closed, with other primitives.

    Looks into all that an equation has as a jaxpr: functions of jit, remat and shard_map, loops,
    branches, functions with a derivative of their own. Those derivatives stay as they are: they
    are Python functions, which nobody has traced yet.

    Returns:
        A new jaxpr, or the one given if none of the primitives is in it.
    """
    return _Substitution(primitives).value(jaxpr)


class _Substitution:
    def __init__(self, primitives: Primitives) -> None:
        self.primitives = primitives
        self.done: dict[int, tuple[Any, Any]] = {}  # by identity: what was one stays one

    def value(self, value: Any) -> Any:
        """A parameter of an equation; the very same if there is nothing to change in it."""
        if hasattr(value, "eqns"):
            if id(value) not in self.done:
                self.done[id(value)] = value, self._jaxpr(value)  # held, so that its id is its own
            return self.done[id(value)][1]
        if isinstance(value, tuple | list):
            parts = list(map(self.value, value))
            if all(new is old for new, old in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    def _jaxpr(self, jaxpr: Any) -> Any:
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        if inner is not jaxpr:  # closed; in JAX 0.12 open and closed are one
            changed = self.value(inner)
            return jaxpr if changed is inner else jaxpr.replace(jaxpr=changed)
        equations = list(map(self._equation, jaxpr.eqns))
        if all(new is old for new, old in zip(equations, jaxpr.eqns, strict=True)):
            return jaxpr
        return jaxpr.replace(eqns=equations)

    def _equation(self, equation: Any) -> Any:
        primitive = self.primitives.get(equation.primitive)
        if primitive is not None:
            return equation.replace(primitive=primitive)
        params = {name: self.value(value) for name, value in equation.params.items()}
        if all(params[name] is value for name, value in equation.params.items()):
            return equation
        if callable(params.get("policy")):  # of remat
            params["policy"] = _Policy(params["policy"], tuple(self.primitives.items()))
        return equation.replace(params=params)


@dataclasses.dataclass(frozen=True)
class _Policy:
    """What remat saves, decided by the primitives that the user knows."""

    policy: Callable[..., Any]
    primitives: tuple[tuple[Any, Any], ...]

    def __call__(self, primitive: Any, *operands: Any, **params: Any) -> Any:
        known = {new: old for old, new in self.primitives}
        return self.policy(known.get(primitive, primitive), *operands, **params)
