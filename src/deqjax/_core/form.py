"""The form of a state: what f sees of it, and what solvers and adjoints work on.

They know one form, the core's: a pytree of real arrays whose axis 0 is the batch. A state of
another form goes inward once before the solve, outward in each evaluation of f, and is shown at the
end, so that every solver and every adjoint serves every state.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.segments import graphs_of
from deqjax._core.solution import Solution
from deqjax._core.types import Map, State
from deqjax._core.validate import check_batch, check_map, settle


class Layout(Protocol):
    """Which part of a leaf is a sample."""

    @property
    def sample(self) -> str:
        """What a sample is called."""

    def inward(self, leaf: jax.Array) -> jax.Array:
        """The leaf with the batch as axis 0."""

    def outward(self, leaf: jax.Array) -> jax.Array:
        """Its inverse, for f."""

    def show(self, leaf: jax.Array) -> jax.Array:
        """Its inverse, for the user."""


class _Rows:
    """Each row is a sample: the core's own layout."""

    sample = "row"

    def inward(self, leaf: jax.Array) -> jax.Array:
        return leaf

    outward = show = inward


class _Coupled:
    """The whole state is one sample."""

    sample = "state"

    def inward(self, leaf: jax.Array) -> jax.Array:
        return jnp.expand_dims(leaf, 0)

    def outward(self, leaf: jax.Array) -> jax.Array:
        return jnp.squeeze(leaf, 0)

    show = outward


@dataclasses.dataclass(frozen=True)
class Form:
    """An invertible pair between the user's states and the core's, and what f returns besides."""

    is_complex: tuple[bool, ...]  # of each leaf of the user's state
    layout: Layout
    has_aux: bool

    @property
    def changes_states(self) -> bool:
        """Whether the user's states are not the core's already."""
        return any(self.is_complex) or not isinstance(self.layout, _Rows)

    def inward(self, state: State) -> State:
        """The user's state, or what f made of one, as the core has it."""
        return jax.tree.map(lambda leaf: self.layout.inward(_as_real(leaf)), state)

    def outward(self, state: State) -> State:
        """The core's state as f sees it."""
        return self._outward(state, self.layout.outward)

    def show(self, state: State) -> State:
        """The core's state as the user sees it."""
        return self._outward(state, self.layout.show)

    def _outward(self, state: State, back: Callable[[jax.Array], jax.Array]) -> State:
        leaves, structure = jax.tree.flatten(state)
        shown = [
            _as_complex(back(leaf)) if pair else back(leaf)
            for leaf, pair in zip(leaves, self.is_complex, strict=True)
        ]
        return jax.tree.unflatten(structure, shown)

    def core(self, f: Map, *, endomorphism: bool = True) -> Map:
        """The user's f as a map of core states, without aux; f itself where nothing is to do.

        An ``endomorphism`` is checked to return states like its argument.
        """
        if not self.changes_states and not self.has_aux:
            return f

        def core_map(z: State, *args: Any, **step: jax.Array) -> State:
            state = self.outward(z)
            result = f(state, *args, **step)
            if self.has_aux:
                result, _ = _pair(result)
            result = jax.tree.map(jnp.asarray, result)
            if endomorphism:
                # here, so that the sentence tells of the user's shapes
                check_map(result, state)
            return self.inward(result)

        return core_map

    def finish(self, solution: Solution, f: Map, args: tuple[Any, ...]) -> Solution:
        """The solution in the user's form, with the aux of its value."""
        if self.changes_states:
            rows = solution.trajectory
            if rows is not None:
                rows = jax.vmap(self.show)(rows)
            solution = solution._replace(value=self.show(solution.value), trajectory=rows)
        if self.has_aux:
            _, aux = _pair(f(solution.value, *args))
            stats = solution.stats._replace(evaluations=solution.stats.evaluations + 1)
            solution = solution._replace(stats=stats, aux=aux)
        return solution


def take_form(
    z0: State, *, coupled: bool = False, segments: Any = None, has_aux: bool = False
) -> tuple[State, Form]:
    """The core's z0 and the form that leads to it.

    Raises:
        ValueError, TypeError: a z0 that the options do not fit, in one sentence.
    """
    for name, value in (("coupled", coupled), ("has_aux", has_aux)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}.")
    if coupled and segments is not None:
        raise ValueError(
            "coupled=True makes the whole state one sample and segments= one of each graph: "
            "choose one."
        )
    z0 = settle(z0, or_complex=True)
    layout: Layout = _Coupled()
    if not coupled:
        check_batch(z0)
        layout = _Rows() if segments is None else graphs_of(segments, z0)
    kinds = tuple(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(z0))
    form = Form(kinds, layout, has_aux)
    return form.inward(z0), form


def _as_real(leaf: jax.Array) -> jax.Array:
    """A complex (...) as a real (..., 2)."""
    if not jnp.iscomplexobj(leaf):
        return leaf
    return jnp.stack([jnp.real(leaf), jnp.imag(leaf)], axis=-1)


def _as_complex(leaf: jax.Array) -> jax.Array:
    return lax.complex(leaf[..., 0], leaf[..., 1])


def _pair(result: Any) -> tuple[State, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"has_aux=True needs an f that returns (z, aux), got {type(result).__name__}."
        )
    return result
