"""Other equations in the place of some of a jaxpr's, however deep inside they stand."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Rule: TypeAlias = Callable[[Any], Any]
"""An equation -> one of the same inputs and results, or the very same to leave it."""
Primitives: TypeAlias = Mapping[Any, Any]
"""Primitive -> the one that takes its place: same operands, parameters and results."""


def rewritten(jaxpr: Any, rule: Rule, around: Rule = lambda equation: equation) -> Any:
    """The jaxpr, open or closed, with all its equations as the rule has them.

    Looks into all that an equation has as a jaxpr: functions of jit, remat and shard_map, loops,
    branches, functions with a derivative of their own. Those derivatives stay as they are: they
    are Python functions, which nobody has traced yet.

    Args:
        jaxpr: the equations.
        rule: for each of them that the jaxprs inside do not change.
        around: for those that have a changed jaxpr inside.

    Returns:
        A new jaxpr, or the one given if no equation changed.
    """
    return _Rewriting(rule, around).value(jaxpr)


def substituted(jaxpr: Any, primitives: Primitives) -> Any:
    """The jaxpr, open or closed, with other primitives; itself if it has none to replace."""

    def rule(equation: Any) -> Any:
        primitive = primitives.get(equation.primitive)
        return equation if primitive is None else equation.replace(primitive=primitive)

    def around(equation: Any) -> Any:
        policy = equation.params.get("policy")
        if not callable(policy):
            return equation
        # of remat
        known = _Policy(policy, tuple(primitives.items()))
        return equation.replace(params=equation.params | {"policy": known})

    return rewritten(jaxpr, rule, around)


class _Rewriting:
    def __init__(self, rule: Rule, around: Rule) -> None:
        self.rule, self.around = rule, around
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
        params = {name: self.value(value) for name, value in equation.params.items()}
        if all(params[name] is value for name, value in equation.params.items()):
            return self.rule(equation)
        return self.around(equation.replace(params=params))


@dataclasses.dataclass(frozen=True)
class _Policy:
    """What remat saves, decided by the primitives that the user knows."""

    policy: Callable[..., Any]
    primitives: tuple[tuple[Any, Any], ...]

    def __call__(self, primitive: Any, *operands: Any, **params: Any) -> Any:
        known = {new: old for old, new in self.primitives}
        return self.policy(known.get(primitive, primitive), *operands, **params)
