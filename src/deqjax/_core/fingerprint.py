"""When are two traced maps, or two settings, interchangeable? Keys that are equal only then.

Nothing is taken for equal on trust: a value of a kind that is not listed here has no key
(`NoFingerprintError`), and whoever asked for it does without.
"""

import dataclasses
import enum
import functools
import sys
import weakref
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

Key: TypeAlias = Hashable
"""Equal for what is interchangeable; holds no large array."""

_MOST_ELEMENTS = 1024  # of an array that is compared by its values
_MOST_EQUATIONS = 256  # of a function whose own derivative is traced to be compared
_BY_EQUALITY = (
    *(type(None), str, bytes, bool, int, enum.Enum, np.dtype),
    *(jax.tree_util.PyTreeDef, jax.sharding.Mesh),
)
_HAVE_RULES = ("custom_jvp_call", "custom_vjp_call")

# jaxprs around large arrays: met again they are the same, and JAX keeps them, not only we
_met: weakref.WeakSet[Any] = weakref.WeakSet()


class NoFingerprintError(Exception):
    """A value that cannot be told apart from every other."""


def of_map(jaxpr: Any, structure: Any) -> Key:
    """Key of a map as it was traced: its equations with all their parameters.

    The arrays that its ``constvars`` stand for are arguments to it and no part of the key. A
    custom derivative is compared by what it does: its rule is traced, up to second derivatives.

    Raises:
        NoFingerprintError: it has effects, or a parameter that cannot be compared.
    """
    if jaxpr.effects:
        raise NoFingerprintError("effects, such as those of jax.debug.print")
    return (_equal(structure), _Walk().jaxpr(jaxpr))


def of_settings(settings: Any) -> Key:
    """Key of solvers and rules of this library with their options.

    Raises:
        NoFingerprintError: there is a function or a class of somebody else, whose code may read
            what changes, or an array that is traced or large.
    """
    return _Walk(package="deqjax").value(settings)


class _Walk:
    """One pass over a value."""

    def __init__(self, package: str | None = None) -> None:
        self.package = package  # that functions and classes must be of
        self.open: list[Key] = []  # functions whose rules are being traced

    def value(self, value: Any) -> Key:
        """Key of any value."""
        kind = type(value)
        if hasattr(value, "eqns"):  # open or closed
            return self.jaxpr(value)
        if isinstance(value, dict):
            return (kind, *((self.value(k), self.value(v)) for k, v in value.items()))
        if isinstance(value, functools.partial):
            return (kind, *map(self.value, (value.func, value.args, value.keywords)))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
            return (self._named(kind), *map(self.value, fields))
        if isinstance(value, tuple | list):
            return (kind, *map(self.value, value))
        return self._single(value)

    def _single(self, value: Any) -> Key:
        """Key of what has no parts."""
        kind = type(value)
        if isinstance(value, float):
            return (kind, value.hex())  # 0.0 is not -0.0, and NaN is NaN
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _array(value)
        if isinstance(value, set | frozenset):
            return (kind, frozenset(map(self.value, value)))
        if isinstance(value, _BY_EQUALITY):
            return _equal(value)
        if callable(value):
            return self._named(value)
        return _of_jax(value)

    def _named(self, value: Any) -> Key:
        """A function or class is itself if it is one for good: its module has it by its name."""
        name, module = getattr(value, "__qualname__", ""), getattr(value, "__module__", None) or ""
        if getattr(sys.modules.get(module), name, None) is not value:
            raise NoFingerprintError(f"{name or value} is not in a module by that name")
        if self.package not in (None, module.partition(".")[0]):
            raise NoFingerprintError(f"{name} is not of {self.package}")
        return (type(value), value)

    def jaxpr(self, jaxpr: Any) -> Key:
        """Key of a jaxpr, or of one inside with what it has captured."""
        captured = getattr(jaxpr, "consts", ())
        if any(map(_too_large, captured)):
            if jaxpr not in _met:
                _met.add(jaxpr)
                raise NoFingerprintError("a jaxpr around a large array, met for the first time")
            return ("this very one", jaxpr)

        numbers: dict[Any, int] = {}

        def bind(variables: Sequence[Any]) -> Key:
            for variable in variables:
                numbers[variable] = len(numbers)
            return tuple(variable.aval for variable in variables)

        def read(atom: Any) -> Key:
            if isinstance(atom, core.Literal):
                return ("literal", atom.aval, _array(np.asarray(atom.val)))
            return numbers[atom]

        inner = getattr(jaxpr, "jaxpr", jaxpr)
        parts = [tuple(map(_array, captured)), bind(inner.constvars), bind(inner.invars)]
        for equation in inner.eqns:
            inputs = tuple(map(read, equation.invars))
            custom = equation.primitive.name in _HAVE_RULES
            told = self._custom(inner, equation) if custom else self.value(equation.params)
            # contexts are interned: one object for each set of values
            parts.append((equation.primitive, inputs, told, equation.ctx, bind(equation.outvars)))
        return (*parts, tuple(map(read, inner.outvars)))

    def _custom(self, around: Any, equation: Any) -> Key:
        """Key of a function with a derivative of its own: of both."""
        jaxpr = equation.params["call_jaxpr"]
        if equation.params["symbolic_zeros"] or _count(jaxpr) > _MOST_EQUATIONS:
            raise NoFingerprintError("a derivative that depends on zeros, or of a long function")
        function = (equation.primitive, self.jaxpr(jaxpr))
        if self.open.count(function) == 2:  # a rule that calls its own function has no end
            return function
        self.open.append(function)
        try:
            derivative = _trace_rule(around, equation)
        except Exception as error:  # whatever a rule raises: it may never be asked to differentiate
            raise NoFingerprintError("a derivative that raises") from error
        key = (function, self.jaxpr(derivative.jaxpr))
        self.open.pop()
        return key


def _trace_rule(around: Any, equation: Any) -> Any:
    """The closed jaxpr of the derivative of one equation with a rule of its own."""
    given = [atom for atom in equation.invars if not isinstance(atom, core.Literal)]
    given = list(dict.fromkeys(given))
    alone = around.replace(
        constvars=[],
        invars=given,
        outvars=equation.outvars,
        eqns=[equation],
        debug_info=around.debug_info.with_unknown_names(),
    )
    smooth = [jnp.issubdtype(variable.aval.dtype, jnp.inexact) for variable in given]

    def run(moved: list[Any], held: list[Any]) -> list[Any]:
        values = {True: iter(moved), False: iter(held)}
        outputs = jax.core.eval_jaxpr(alone, (), *(next(values[kind]) for kind in smooth))
        return [x for x in outputs if jnp.issubdtype(x.dtype, jnp.inexact)]

    def push(moved: list[Any], tangents: list[Any], held: list[Any]) -> Any:
        return jax.jvp(lambda moved: run(moved, held), (moved,), (tangents,))

    def pull(moved: list[Any], cotangents: list[Any], held: list[Any]) -> Any:
        return jax.vjp(lambda moved: run(moved, held), moved)[1](cotangents)

    moved = [_like(v) for v, kind in zip(given, smooth, strict=True) if kind]
    held = [_like(v) for v, kind in zip(given, smooth, strict=True) if not kind]
    if equation.primitive.name == "custom_jvp_call":
        return jax.make_jaxpr(push)(moved, moved, held)
    return jax.make_jaxpr(pull)(moved, jax.eval_shape(run, moved, held), held)


def _like(variable: Any) -> jax.ShapeDtypeStruct:
    aval = variable.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _count(jaxpr: Any) -> int:
    """Equations, those inside of others too."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    nested = [each for equation in inner.eqns for each in core.jaxprs_in_params(equation.params)]
    return len(inner.eqns) + sum(map(_count, nested))


def _of_jax(value: Any) -> Key:
    """Types of arrays, shardings, layouts: immutable values of JAX's own."""
    kind: Any = type(value)
    if kind.__module__.partition(".")[0] not in ("jax", "jaxlib"):
        raise NoFingerprintError(f"a {kind.__name__}")
    if kind.__eq__ is object.__eq__ and not getattr(value, "__dict__", True):
        return (kind,)  # a marker without contents
    return _equal(value)


def _equal(value: Any) -> Key:
    """Key of what compares itself."""
    try:
        hash(value)
    except TypeError as error:
        raise NoFingerprintError(f"a {type(value).__name__}, which is not hashable") from error
    return (type(value), value)


def _array(value: Any) -> Key:
    """Key of a small array: its type, its place and its values."""
    if _too_large(value):
        raise NoFingerprintError("an array that is traced, large or no plain numbers")
    place = (jax.typeof(value), value.sharding) if isinstance(value, jax.Array) else ()
    plain = np.asarray(value)
    return (type(value), plain.dtype, plain.shape, plain.tobytes(), *place)


def _too_large(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer) or value.size > _MOST_ELEMENTS:
        return True
    if jnp.issubdtype(value.dtype, jax.dtypes.extended) or value.dtype == object:
        return True
    return isinstance(value, jax.Array) and not value.is_fully_addressable
