"""Learning rates of some parameters by their names, as factors on that of all others."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.tree_util import DictKey, KeyPath

from deqjax.training._options import ConfigError


def name_of(path: KeyPath) -> str:
    """A parameter's place in the model, such as ``deq.cell.up.kernel``."""
    return ".".join(str(key.key) for key in path if isinstance(key, DictKey))


def by_rates(
    update: optax.GradientTransformation, rates: Mapping[str, float]
) -> optax.GradientTransformation:
    """An optimizer whose updates are multiplied by a factor for each parameter.

    Args:
        update: any.
        rates: patterns of names -> factors; the first that fits decides, others have 1. If all are
            1 the result is ``update`` itself, with its state.

    Raises:
        ConfigError: a pattern fits no parameter; from the result's ``init``.
    """
    if all(rate == 1 for rate in rates.values()):
        return update

    def factor(path: KeyPath) -> float:
        name = name_of(path)
        found = (rate for pattern, rate in rates.items() if fnmatch.fnmatchcase(name, pattern))
        return next(found, 1.0)

    def check(parameters: optax.Params) -> optax.EmptyState:
        names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
        for pattern in rates:
            if not fnmatch.filter(names, pattern):
                raise ConfigError(
                    f"a task's rates name {pattern!r}, which fits no parameter: {', '.join(names)}."
                )
        return optax.EmptyState()

    def scale(updates: Any, state: optax.EmptyState, _: Any = None) -> tuple[Any, optax.EmptyState]:
        scaled = jax.tree_util.tree_map_with_path(lambda path, each: each * factor(path), updates)
        return scaled, state

    return optax.chain(update, optax.GradientTransformation(check, scale))
