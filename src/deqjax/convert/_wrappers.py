"""The names that PyTorch's wrappers put around those of a model."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

# data-parallel models, compiled ones, those inside a trainer's module, Fabric's and FSDP's
_OUTSIDE = ("module.", "_orig_mod.", "model.", "_forward_module.", "_fsdp_wrapped_module.")
# wrapped modules inside a model; nobody calls a module of his own like that
_INSIDE = re.compile(r"\.(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """The same under the names that the model itself gives.

    What stands before all names is dropped, any number of times and in any order. What stands
    before some alone may be a module of that name, and stays.
    """
    state = _renamed(state, {key: _INSIDE.sub("", key) for key in state})
    while state and (common := next((each for each in _OUTSIDE if _before_all(each, state)), "")):
        state = _renamed(state, {key: key.removeprefix(common) for key in state})
    return dict(state)


def odd_names(names: Iterable[str]) -> tuple[str, list[str]] | None:
    """A wrapper's prefix that most names have, and those that do not; None if there is none."""
    every = list(names)
    for prefix in _OUTSIDE:
        odd = [name for name in every if not name.startswith(prefix)]
        if 0 < len(odd) < len(every) / 2:
            return prefix, odd
    return None


def _before_all(prefix: str, names: Iterable[str]) -> bool:
    return all(name.startswith(prefix) for name in names)


def _renamed(state: Mapping[str, Value], names: Mapping[str, str]) -> Mapping[str, Value]:
    """Under other names, unless two would become one."""
    if len(set(names.values())) < len(state):
        return state
    return {names[key]: value for key, value in state.items()}
