"""What the result of a solve says when it is printed: a few words, not its arrays."""

import html
from typing import Any

import jax
import numpy as np

_MOST_NAMED = 5  # samples that a line names, of those that failed in one way

_WORDS = {
    0: "without a solve",
    1: "converged",
    2: "at the step limit",
    3: "diverged",
    4: "of lost precision",
}
_WORST_FIRST = (3, 4, 2, 0, 1)


def summary(steps: Any, residual: Any, status: Any) -> str:
    """How the samples of a solve did, failures first.

    Args:
        steps: updates of each sample, of any shape: several devices' are taken together.
        residual: likewise.
        status: likewise, values of `deqjax.Status`.

    Returns:
        A sentence; where the numbers are not known yet, as inside of jit, shapes and dtypes.
    """
    if not all(_is_known(values) for values in (steps, residual, status)):
        return f"steps {describe(steps)}, residual {describe(residual)}, status {describe(status)}"
    steps, residual, status = (np.asarray(values).ravel() for values in (steps, residual, status))
    total = f"{len(status)} sample{'' if len(status) == 1 else 's'}"
    if not len(status):
        return total
    return (
        f"{total}: {_outcomes(status.astype(int))}, {steps.mean():.3g} steps "
        f"(at most {steps.max():.0f}), residual at most {residual.max():.1e}"
    )


def table(rows: dict[str, str]) -> str:
    """The rows as a small HTML table."""
    cells = (
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


def describe(tree: Any) -> str:
    """Structure, shapes and dtypes of a pytree of arrays, as float32[4,16]."""
    described = jax.tree.map(_Text, tree)
    text = repr(described)
    return text if len(text) <= 400 else f"{len(jax.tree.leaves(tree))} arrays"


class _Text:
    """A leaf that prints as its dtype and shape."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    def __repr__(self) -> str:
        shape, dtype = getattr(self.leaf, "shape", None), getattr(self.leaf, "dtype", None)
        if shape is None or dtype is None:
            return repr(self.leaf)
        return f"{dtype}[{','.join(map(str, shape))}]"


def _outcomes(status: np.ndarray[Any, Any]) -> str:
    found = [value for value in _WORST_FIRST if (status == value).any()]
    if len(found) == 1:
        return f"{'all ' if len(status) > 1 else ''}{_WORDS[found[0]]}"
    return ", ".join(_outcome(status, value) for value in found)


def _outcome(status: np.ndarray[Any, Any], value: int) -> str:
    where = np.flatnonzero(status == value)
    if value == 1:
        return f"{len(where)} {_WORDS[value]}"
    named = ", ".join(map(str, where[:_MOST_NAMED]))
    return f"{len(where)} {_WORDS[value]} ({named}{', ...' if len(where) > _MOST_NAMED else ''})"


def _is_known(values: Any) -> bool:
    """Whether the numbers can be read: not inside of a transform, and not on another host."""
    if isinstance(values, jax.Array):
        return not isinstance(values, jax.core.Tracer) and values.is_fully_addressable
    return isinstance(values, np.ndarray)
