"""Turning a stateful NNX cell into a pure map whose random masks hold still."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from deqjax._core.types import Map, Operands, State
from deqjax.nn._cells import first_step
from deqjax.nn._unobserved import unobserved


class CellStateError(ValueError):
    """A cell changes its own state when called, so iterating it has no meaning."""


def state_error(kind: str, name: str) -> CellStateError:
    """The refusal of a cell that updates this variable of its own."""
    return CellStateError(
        f"the cell updates its {kind} {name!r} while it is iterated, so "
        "f would change from step to step; switch the update off inside the cell "
        "(BatchNorm: use_running_average=True) or normalize without statistics."
    )


def sown_error(name: str) -> CellStateError:
    """The refusal of a cell that sows into its own attributes."""
    return CellStateError(
        f"the cell sows its {name!r} into itself at every step of the solve; call the model inside "
        "nnx.capture, which shows what the cell sows at the solution."
    )


def freeze(cell: Callable[..., State], z0: State, u: Operands, *, numbered: bool = False) -> Map:
    """Return ``f(z, u) = cell(z, u)`` with fixed random keys, pure and differentiable.

    Each random stream that the cell draws from is advanced once in the cell itself, so the next
    freeze has other masks; a stream not drawn from (dropout switched off) stays as it is.

    Args:
        cell: an NNX module ``cell(z, u) -> z'``; any other function is returned as it is.
        z0: a state, of which only structure, shapes and dtypes count.
        u: the cell's second argument; likewise.
        numbered: the cell is ``cell(z, u, step=n)``, and f then too.

    Raises:
        CellStateError: the cell changes its state, such as running batch statistics.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from deqjax.nn import freeze
        >>> class Cell(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.dropout = nnx.Dropout(0.5, rngs=rngs)
        ...
        ...     def __call__(self, z, u):
        ...         return self.dropout(z + u)
        >>> cell, z, u = Cell(nnx.Rngs(0)), jnp.ones((2, 64)), jnp.ones((2, 64))
        >>> f, g = freeze(cell, z, u), freeze(cell, z, u)
        >>> print(bool(jnp.all(f(z, u) == f(z, u))), bool(jnp.all(f(z, u) == g(z, u))))
        True False
    """
    if not isinstance(cell, nnx.Module):
        return cell
    used = _streams_drawn_from(cell, z0, u, first_step(numbered))
    # the copy must not share Variables with the cell: both are mutable
    frozen = nnx.merge(*nnx.split(cell), copy=True)
    keys = {path: stream() for path, stream in streams(cell).items() if path in used}
    for path, stream in streams(frozen).items():
        if path in used:
            stream.key.set_value(keys[path])
    return FrozenCell(frozen, used)


class FrozenCell:
    """``f(z, u)`` of a cell whose arrays are held: no call changes them."""

    def __init__(self, cell: nnx.Module, used: set[tuple[Any, ...]]) -> None:
        self.name = type(cell).__name__
        self.used = used  # paths of the streams that the cell draws from
        self.graph, self.state = nnx.split(cell)

    def __call__(self, z: State, u: Operands, **step: jax.Array) -> State:
        with unobserved():
            result: State = self._copy()(z, u, **step)
        return result

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def capture(self, cell: Any, z: State, u: Operands, **step: jax.Array) -> None:
        """Inside `nnx.capture`, evaluate the cell itself once at z, with the keys held here.

        What it sows while it is iterated stays in copies; this shows what it sees at the solution.
        """
        if not hasattr(cell, "__captures__"):  # Flax's mark for the time of a capture
            return
        held = streams(self._copy())
        own = {path: stream for path, stream in streams(cell).items() if path in self.used}
        before = {path: _key_and_count(stream) for path, stream in own.items()}
        for path, stream in own.items():
            _set_key_and_count(stream, *_key_and_count(held[path]))
        with unobserved():
            cell(z, u, **step)
        for path, stream in own.items():
            _set_key_and_count(stream, *before[path])

    def _copy(self) -> Any:
        # for each trace its own: without, NNX refuses to count draws made under another trace
        return nnx.merge(self.graph, self.state, copy=True)


def _streams_drawn_from(
    cell: nnx.Module, z0: State, u: Operands, step: dict[str, jax.Array]
) -> set[tuple[Any, ...]]:
    """Evaluate the cell abstractly; return the streams it drew from, refuse other changes."""
    graph, state = nnx.split(cell)
    # types only: a variable of the abstract evaluation holds tracers that must not outlive it
    changed: dict[tuple[Any, ...], type[nnx.Variable[Any]]] = {}

    def watch(z: State, u: Operands) -> State:
        copy = nnx.merge(graph, state, copy=True)
        before = {path: variable.get_raw_value() for path, variable in _variables(copy).items()}
        with unobserved():
            result = copy(z, u, **step)
        for path, variable in _variables(copy).items():
            if variable.get_raw_value() is not before.get(path):
                changed[path] = type(variable)
        return result

    jax.eval_shape(watch, z0, u)
    known = streams(cell)
    for path, kind in changed.items():
        # a key outside of a stream counts as state: nothing here would advance it between calls
        if path[:-1] not in known:
            name = ".".join(map(str, path))
            if issubclass(kind, nnx.Intermediate):
                raise sown_error(name)
            raise state_error(kind.__name__, name)
    return {path[:-1] for path in changed}


def _variables(module: nnx.Module) -> dict[tuple[Any, ...], nnx.Variable[Any]]:
    return {path: node for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Variable)}


def streams(module: nnx.Module) -> dict[tuple[Any, ...], nnx.RngStream]:
    """The random streams inside a module, by path."""
    return {path: node for path, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)}


def _key_and_count(stream: nnx.RngStream) -> tuple[jax.Array, jax.Array]:
    return stream.key.get_value(), stream.count.get_value()


def _set_key_and_count(stream: nnx.RngStream, key: jax.Array, count: jax.Array) -> None:
    stream.key.set_value(key)
    stream.count.set_value(count)


def reseed(module: nnx.Module, key: jax.Array) -> None:
    """Give each random stream of a module a key of its own, derived from one key.

    A training step derives its dropout masks this way from its number, so that no random state has
    to be carried from step to step.
    """
    for index, stream in enumerate(streams(module).values()):
        count = jax.numpy.zeros_like(stream.count.get_value())
        _set_key_and_count(stream, jax.random.fold_in(key, index), count)
