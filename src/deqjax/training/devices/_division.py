"""How arrays are divided among the devices of a mesh: rules by name, and what holds without one."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import PartitionSpec
from jax.tree_util import KeyPath

from deqjax.nn import MODEL_AXIS
from deqjax.training.devices._engine import AXIS, ReplicaError
from deqjax.training.step import TrainState, Weights, name_of

MODEL = MODEL_AXIS
"""The axis of the devices that share a row's work."""

Rules: TypeAlias = Mapping[str, PartitionSpec | None]
"""Patterns of parameters' names -> over which axes of the mesh each axis of the array is divided.

A name is the path in the model, with dots: ``deq.cell.up.kernel``; in patterns ``*`` stands for
anything. The first pattern that fits decides. A rule that does not name "data" is completed: the
largest axis that is left is divided over it, and, where "model" divides none, over that too; the
step then works with the whole array. None keeps a parameter whole on every device.
"""


def specs_of_weights(weights: Weights, rules: Rules, sizes: Mapping[str, int]) -> Weights:
    """How weights are divided; statistics are not.

    Args:
        weights: leaves with shapes.
        rules: by name.
        sizes: of the axes of the mesh.

    Raises:
        ReplicaError: a rule fits no parameter, names an axis that there is not, or has more entries
            than its parameter has axes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(weights.parameters)
    names = [name_of(path) for path, _ in leaves]
    for pattern, rule in rules.items():
        _check_rule(pattern, rule, names, sizes)

    def spec(path: KeyPath, leaf: Any) -> PartitionSpec:
        name = name_of(path)
        for pattern, rule in rules.items():
            if fnmatch.fnmatchcase(name, pattern):
                return _by_rule(name, leaf.shape, rule, sizes)
        return default_spec(leaf.shape, sizes)

    parameters = jax.tree_util.tree_map_with_path(spec, weights.parameters)
    statistics = jax.tree.map(lambda _: PartitionSpec(), weights.statistics)
    return Weights(parameters, statistics)


def specs_of_state(state: TrainState, rules: Rules, sizes: Mapping[str, int]) -> TrainState:
    """How a state is divided: what the optimizer holds of a parameter as the parameter itself.

    Args:
        state: leaves with shapes.
        rules: by name.
        sizes: of the axes of the mesh.

    Raises:
        ReplicaError: see `specs_of_weights`.
    """
    weights = specs_of_weights(state.weights, rules, sizes)
    known: dict[KeyPath, tuple[tuple[int, ...], PartitionSpec]] = {
        path: (leaf.shape, spec)
        for (path, leaf), spec in zip(
            jax.tree_util.tree_leaves_with_path(state.weights.parameters),
            jax.tree.leaves(weights.parameters, is_leaf=is_spec),
            strict=True,
        )
    }

    def moment(path: KeyPath, leaf: Any) -> PartitionSpec:
        # Optax keeps a tree like the parameters' somewhere below its own names
        for start in range(len(path)):
            found = known.get(path[start:])
            if found is not None and found[0] == leaf.shape:
                return found[1]
        return default_spec(leaf.shape, sizes)

    whole: Any = PartitionSpec()
    return TrainState(
        step=whole,
        weights=weights,
        optimizer=jax.tree_util.tree_map_with_path(moment, state.optimizer),
        key=whole,
        memory=jax.tree.map(lambda _: PartitionSpec(AXIS), state.memory),
        skips=jax.tree.map(lambda _: whole, state.skips),
        average=None if state.average is None else weights,
    )


def default_spec(shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
    """Without a rule: outputs of matrices and kernels over "model", the rest over "data".

    Of the axes that a number of devices divides, the last one belongs to "model", if the array has
    two or more, and the largest of the others to "data".
    """
    entries: list[Any] = [None] * len(shape)
    if len(shape) > 1 and sizes[MODEL] > 1 and shape[-1] and not shape[-1] % sizes[MODEL]:
        entries[-1] = MODEL
    return _completed(entries, shape, sizes)


def only(spec: PartitionSpec, axis: str) -> PartitionSpec:
    """The part of a specification that divides over one axis of the mesh."""
    return PartitionSpec(*(axis if axis in axes_of(entry) else None for entry in spec))


def computed(spec: PartitionSpec) -> PartitionSpec:
    """How a parameter is divided while the step computes with it: over "model" alone."""
    return PartitionSpec(*(entry if entry == MODEL else None for entry in spec))


def place_of(spec: PartitionSpec, axis: str) -> int | None:
    """Which axis of the array is divided over an axis of the mesh."""
    return next((place for place, entry in enumerate(spec) if axis in axes_of(entry)), None)


def axes_of(entry: Any) -> tuple[str, ...]:
    """The axes of the mesh that an entry of a specification names."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def is_spec(tree: Any) -> bool:
    """Whether a tree is a specification, for `jax.tree.map`."""
    return isinstance(tree, PartitionSpec)


def _by_rule(
    name: str, shape: Sequence[int], rule: PartitionSpec | None, sizes: Mapping[str, int]
) -> PartitionSpec:
    if rule is None:
        return PartitionSpec()
    if len(rule) > len(shape):
        raise ReplicaError(
            f"the rule {rule} of sharding() has more entries than {name} of shape {tuple(shape)} "
            "has axes."
        )
    entries: list[Any] = [*rule, *[None] * (len(shape) - len(rule))]
    for place, entry in enumerate(entries):
        count = 1
        for axis in axes_of(entry):
            count *= sizes[axis]
        # the same rules serve small models and any number of devices, and one device takes no axis
        if shape[place] % count or count == 1:
            entries[place] = None
    named = any(AXIS in axes_of(entry) for entry in rule)
    return PartitionSpec(*entries) if named else _completed(entries, shape, sizes)


def _completed(entries: list[Any], shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
    """With the largest axis that is left over "data", the first of several.

    And over "model" too, if that divides no axis yet.
    """
    every = sizes[AXIS] * sizes[MODEL]
    ways: list[tuple[Any, int]] = [(AXIS, sizes[AXIS])]
    if sizes[MODEL] > 1 and MODEL not in entries:
        ways.insert(0, ((AXIS, MODEL), every))
    for entry, count in ways:
        free = [
            place
            for place, taken in enumerate(entries)
            if taken is None and shape[place] and not shape[place] % count
        ]
        if free:
            entries[max(free, key=lambda place: shape[place])] = entry
            break
    return PartitionSpec(*entries)


def _check_rule(
    pattern: str, rule: PartitionSpec | None, names: Sequence[str], sizes: Mapping[str, int]
) -> None:
    if not fnmatch.filter(names, pattern):
        raise ReplicaError(
            f"the rule {pattern!r} of sharding() fits no parameter of the model, which has "
            f"{', '.join(names)}."
        )
    used = [axis for entry in rule or () for axis in axes_of(entry)]
    for axis in used:
        if axis not in sizes:
            raise ReplicaError(
                f"the rule {pattern!r} of sharding() divides over {axis!r}; there are "
                f"{AXIS!r} and {MODEL!r}."
            )
    if len(used) > len(set(used)):
        raise ReplicaError(
            f"the rule {pattern!r} of sharding() divides two axes over the same devices: {rule}."
        )
