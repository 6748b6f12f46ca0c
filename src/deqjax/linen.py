"""The equilibrium layer for Flax Linen: any Linen cell, iterated to its fixed point.

The cell is handed to the solver as a pure function: its variables and the keys of this call are
read once, outside of every trace, and each evaluation binds a copy of the cell to them. So no
tracer of the solver's loop ever reaches a scope of the model.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.core import DenyList, Scope, unfreeze
from flax.core.scope import CollectionFilter, intersect_filters
from flax.errors import ModifyScopeVariableError
from flax.linen.transforms import get_module_scopes, set_module_scopes
from flax.traverse_util import flatten_dict, unflatten_dict

from deqjax._core.segments import Segments
from deqjax._core.types import Map, Operands, Scalar, State
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.nn._cells import check_linen_cell, end_step, first_step, start
from deqjax.nn._freeze import CellStateError, state_error
from deqjax.nn._observe import Observable, Observation
from deqjax.nn._solve_layer import solve_layer
from deqjax.nn._unobserved import unobserved
from deqjax.solvers import Solution, anderson

__all__ = ["DEQ", "CellStateError"]


class DEQ(Observable, nn.Module):
    """z* = cell(z*, u): a Linen cell as a layer of infinite depth.

    The cell is any Linen module (or function) ``cell(z, u) -> z'``: z a pytree of (batch, ...)
    arrays, u what does not depend on z, computed once before the solve. The layer stands inside
    ``@nn.compact``, in ``setup`` or alone, and under Linen's lifted transforms. Its dropout masks
    are drawn once per call and held for the whole solve, forward and backward; the next call and
    another key draw new ones.

    A cell may read any variable (running averages, say) but update none while it is iterated. What
    it sows is sown once, at the state that was found, by one more evaluation, and only if the
    collection is mutable (``mutable=["intermediates"]``, ``capture_intermediates=True``).

    Attributes:
        cell: the layer.
        solver: forward solver, as for [`deqjax.fixed_point`][].
        adjoint: rule for the gradient; None is ``deqjax.adjoints.implicit()``.
        tol: default relative tolerance; a call may override it with a run-time value.
        max_steps: default step limit; likewise.
        coupled: the whole state is one sample, as for [`deqjax.fixed_point`][].
        has_aux: the cell returns ``(z', aux)``, and the solution shows the aux of its value.
        numbered: the cell is ``cell(z, u, step=n)`` with the number n of updates that led to z, as
            [`deqjax.fixed_point`][] says.
        debug: check in each call that two evaluations of the cell at one z agree, and that no row
            depends on another.

    Examples:
        >>> import flax.linen as nn
        >>> import jax, jax.numpy as jnp
        >>> import deqjax, deqjax.linen
        >>> class Cell(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, u, train=False):
        ...         z = nn.Dense(16, kernel_init=nn.initializers.normal(0.05))(z)
        ...         return nn.Dropout(0.1, deterministic=not train)(jnp.tanh(z + u))
        >>> class Model(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train=False):
        ...         solution = deqjax.linen.DEQ(Cell(), tol=1e-4)(nn.Dense(16)(x), train=train)
        ...         return nn.Dense(2)(solution.value), solution.stats
        >>> model, x = Model(), jnp.ones((4, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> outputs, stats = model.apply(variables, x, True, rngs={"dropout": jax.random.key(1)})
        >>> print(outputs.shape, deqjax.Status(int(stats.status[0])).name)
        (4, 2) CONVERGED
    """

    cell: Callable[..., State]
    solver: Callable[..., Solution] = anderson
    adjoint: Adjoint | None = None
    tol: float = 1e-3
    max_steps: int = 30
    coupled: bool = False
    has_aux: bool = False
    numbered: bool = False
    debug: bool = False

    def freeze(self, u: Operands, z0: State | None = None, **options: Any) -> Map:
        """The cell as a pure function f(z, u) with this call's dropout masks.

        Give it to ``__call__`` and to [`deqjax.jacobian_penalty`][], so that both see one map.
        It is differentiable in the cell's parameters, which it closes over. With ``has_aux`` it
        returns what the cell does; the penalty has the option, too.

        Args:
            u: the cell's second argument.
            z0: a state, of which only structure, shapes and dtypes count; None is as u.
            **options: the cell's own keyword arguments, as ``deterministic=True``.

        Raises:
            CellStateError: the cell updates a variable, such as running batch statistics.
            TypeError: the cell is a class, an NNX module, or a function that holds a module.
            ValueError: the layer is not bound to variables.
        """
        check_linen_cell(self.cell)
        if not isinstance(self.cell, nn.Module):
            return functools.partial(self.cell, **options)
        if self.scope is None:
            raise ValueError(
                "the layer has no variables: call it inside a model, or through its init and apply."
            )
        z = start(u, z0)
        step = first_step(self.numbered)
        if self.is_initializing():
            self.cell(z, u, **options, **step)  # makes the parameters, which a pure function cannot
        # of every stream that is there: the keys of other modules do not change by it
        keys = {name: self.make_rng(name) for name in self.scope.rngs}
        frozen = _FrozenCell(self.cell, keys, options)
        frozen.check(z, u, **step)
        return frozen

    def __call__(
        self,
        u: Operands,
        *,
        z0: State | None = None,
        f: Map | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        segments: Segments | Any = None,
        **options: Any,
    ) -> Solution:
        """Solve z* = cell(z*, u).

        Args:
            u: the cell's second argument; gets gradients.
            z0: start, leaves (batch, ...); None is zeros of u's structure and shapes.
            f: a map from ``freeze``, to share its dropout masks; None draws new ones.
            probe: [`deqjax.backward_probe`][] of this batch.
            tol: overrides the layer's tolerance, may be traced.
            max_steps: overrides the layer's step limit, may be traced.
            segments: row -> graph, where rows are nodes of graphs, as for
                [`deqjax.fixed_point`][].
            **options: the cell's own keyword arguments, as ``deterministic=True``; one that the
                cell does not have is a TypeError.

        Returns:
            [`deqjax.Solution`][].

        Raises:
            CellStateError: the cell updates a variable, such as running batch statistics.
            ValueError, TypeError: as [`deqjax.fixed_point`][]; f together with options of the cell,
                which belong to ``freeze``.
        """
        z = start(u, z0)
        f = self._map(f, u, z, options)
        asked: dict[str, Any] = {"probe": probe, "tol": tol, "max_steps": max_steps}
        solution = solve_layer(self, f, z, u, segments=segments, **asked)
        if isinstance(f, _FrozenCell) and not self.is_initializing():
            f.sow(solution.value, u, **end_step(self.numbered, solution))
        return solution

    @nn.nowrap
    def _map(self, f: Map | None, u: Operands, z: State, options: dict[str, Any]) -> Map:
        """The map of this call: the one that was handed in, or a new one."""
        if f is None:
            return self.freeze(u, z, **options)
        if options:
            raise TypeError(f"f has the cell's options already: give {list(options)} to freeze.")
        return f

    @nn.nowrap
    def observed(
        self,
        seen: Observation,
        method: Callable[..., Solution],
        u: Operands,
        *,
        z0: State | None = None,
        f: Map | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        segments: Segments | Any = None,
        **options: Any,
    ) -> Solution:
        """A call while the model is observed (see [`deqjax.nn.observe`][]): ``method`` solves."""
        z = start(u, z0)
        f = self._map(f, u, z, options)

        def solve(f: Map, z: State, **asked: Any) -> Solution:
            return method(u, z0=z, f=f, segments=segments, **asked)

        asked: dict[str, Any] = {"probe": probe, "tol": tol, "max_steps": max_steps}
        name = ".".join(self.path) or "model"
        return seen.call(self, name, solve, f, u, z, **asked, segments=segments)


Path = tuple[str, ...]
"""Where a variable is: its collection, the modules, its name."""


class _FrozenCell:
    """f(z, u) of a bound Linen cell: variables and keys are held, scopes are new each time.

    Binding is Linen's own for lifted transforms, so a cell may hold modules that belong elsewhere:
    each of its scopes is found again below a copy of its root.
    """

    def __init__(
        self, cell: nn.Module, keys: dict[str, jax.Array], options: dict[str, Any]
    ) -> None:
        self.cell = cell
        self.options = options
        self.scopes: list[Scope] = get_module_scopes(cell)[0]
        self.roots = list(dict.fromkeys(scope.root for scope in self.scopes))
        self.variables = [unfreeze(root.variables()) for root in self.roots]
        # below two roots the same names may occur, and equal names draw equal masks
        self.keys = [
            {name: jax.random.fold_in(key, index) for name, key in keys.items()}
            for index in range(len(self.roots))
        ]
        self.sows = False

    def __call__(self, z: State, u: Operands, **step: jax.Array) -> State:
        result, _ = self._run(self.variables, [False] * len(self.roots), z, u, **step)
        return result

    def check(self, z: State, u: Operands, **step: jax.Array) -> None:
        """Evaluate the cell abstractly; refuse one that updates variables, note whether it sows."""
        try:
            changes = self._changes(self._mutable(), z, u, **step)
        except ModifyScopeVariableError:
            # the user's choice of mutable collections forbids it: allow it, to name the variable
            changes = self._changes([DenyList("params")] * len(self.roots), z, u, **step)
        for path, sown in changes.items():
            if not sown:
                raise state_error(path[0], ".".join(path[1:]))
        self.sows = bool(changes)

    def sow(self, z: State, u: Operands, **step: jax.Array) -> None:
        """Let the cell sow into the model's own collections what it sees at z."""
        if not self.sows:
            return
        before = [unfreeze(root.variables()) for root in self.roots]
        _, after = self._run(before, self._mutable(), z, u, **step)
        for root, old, new in zip(self.roots, before, after, strict=True):
            changed = {path: value for path, (_, value) in _changed(old, new).items()}
            for collection, names in unflatten_dict(changed).items():
                for name, value in names.items():
                    root.put_variable(collection, name, value)

    def _mutable(self) -> list[CollectionFilter]:
        """What the model may write, root by root. The parameters are there by now."""
        return [intersect_filters(root.mutable, DenyList("params")) for root in self.roots]

    def _run(
        self,
        variables: list[Any],
        mutable: list[CollectionFilter],
        z: State,
        u: Operands,
        **step: jax.Array,
    ) -> tuple[State, list[Any]]:
        """The cell's result and the variables that it leaves."""
        roots = [
            Scope(unfreeze(tree), rngs, root.name, writable, path=root.path)
            for root, tree, rngs, writable in zip(
                self.roots, variables, self.keys, mutable, strict=True
            )
        ]
        scopes = [_below(roots[self.roots.index(scope.root)], scope) for scope in self.scopes]
        cell, _, _ = set_module_scopes(self.cell, (), {}, scopes)
        with unobserved():
            result = cell(z, u, **self.options, **step)
        return result, [root.variables() for root in roots]

    def _changes(
        self, mutable: list[CollectionFilter], z: State, u: Operands, **step: jax.Array
    ) -> dict[Path, bool]:
        """The variables that an evaluation changes, and whether each was only sown."""
        changes: dict[Path, bool] = {}

        def watch(z: State, u: Operands) -> State:
            result, after = self._run(self.variables, mutable, z, u, **step)
            for old, new in zip(self.variables, after, strict=True):
                for path, (before, value) in _changed(old, new).items():
                    # what is sown is new, or a tuple that grows: the cell does not read it
                    changes[path] = before is None or isinstance(value, tuple)
            return result

        jax.eval_shape(watch, z, u)
        return changes


def _below(root: Scope, scope: Scope) -> Scope:
    """The scope at the place below this root that the given scope has below its own."""
    if scope.parent is None:
        return root
    return _below(root, scope.parent).push(scope.name, reuse=True)


def _changed(before: Any, after: Any) -> dict[Path, tuple[Any, Any]]:
    """Path -> old and new value of each variable that differs; the old one is None if it is new."""
    old, new = flatten_dict(before), flatten_dict(after)
    return {
        path: (old.get(path), value) for path, value in new.items() if value is not old.get(path)
    }
