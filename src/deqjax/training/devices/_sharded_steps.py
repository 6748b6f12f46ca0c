"""The steps of a problem as programs of a mesh, whose devices need not be there."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, use_abstract_mesh

from deqjax.training.devices._copies import count_differing
from deqjax.training.devices._division import (
    MODEL,
    Rules,
    axes_of,
    computed,
    is_spec,
    only,
    place_of,
    specs_of_state,
)
from deqjax.training.devices._engine import AXIS, ReplicaError
from deqjax.training.step import (
    Control,
    Found,
    Metrics,
    Problem,
    Replicas,
    SolveLimits,
    TrainState,
    Weights,
    evaluate_step,
    gradient_step,
    radius_step,
    update_step,
)

_WHOLE = PartitionSpec()
_ROWS = PartitionSpec(AXIS)


def mesh_of(devices: Sequence[Any], model_devices: int = 1) -> Mesh:
    """Devices as a mesh (data, model); each so many neighbours of a process share a row's work.

    Raises:
        ReplicaError: they cannot be divided so.
    """
    for process, count in Counter(device.process_index for device in devices).items():
        if count % model_devices:
            raise ReplicaError(
                f"--model_devices {model_devices} does not divide the {count} device(s) of process "
                f"{process}, within which a row's work must stay; choose a number that does."
            )
    # a pod counts its devices in an order of its own
    by_process = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.asarray(by_process, dtype=object).reshape(-1, model_devices)
    return Mesh(grid, (AXIS, MODEL), axis_types=(AxisType.Auto,) * 2)


class ShardedSteps:
    """A problem's steps, compiled for a mesh when they are first called or lowered.

    The gradient is found under `jax.shard_map`, manual over "data": each device gathers the
    parameters once, before the solve, solves its own rows, which stop on their own, and gets its
    part of the gradient's mean after it. Over "model" the compiler divides the arithmetic as the
    parameters are. The update is made outside, on arrays that are divided but whole to the
    optimizer: norms, penalties and orthogonalizations are those of the whole arrays.

    Args:
        problem: what is trained.
        mesh: axes "data" and "model". Explicit axes are taken as Auto ones, for which models need
            not be written.
        state: before the first step; shapes suffice.
        rules: how parameters are divided; see `deqjax.training.devices.Rules`.

    Attributes:
        mesh: with Auto axes.
        specs: how the state is divided.

    Raises:
        ReplicaError: a mesh with other axes, or a rule does not fit.
    """

    def __init__(
        self, problem: Problem, mesh: Mesh, state: TrainState, rules: Rules | None = None
    ) -> None:
        if tuple(mesh.axis_names) != (AXIS, MODEL):
            raise ReplicaError(
                f"a mesh for training has the axes {AXIS!r} and {MODEL!r}, not "
                f"{', '.join(map(repr, mesh.axis_names))}."
            )
        self._problem = problem
        self.mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * 2)
        self.specs = specs_of_state(state, rules or {}, dict(self.mesh.shape))
        self.shardings: TrainState = jax.tree.map(self.sharding, self.specs, is_leaf=is_spec)
        weights = self.shardings.weights
        rows, whole = self.sharding(_ROWS), self.sharding(_WHOLE)
        self.train, self.pretrain = (
            jax.jit(
                self._in_mesh(functools.partial(self._train, pretraining)),
                in_shardings=(self.shardings, rows, rows, rows),
                out_shardings=(self.shardings, whole, whole),
                donate_argnums=0,
            )
            for pretraining in (False, True)
        )
        self.evaluate = jax.jit(
            self._in_mesh(self._evaluate),
            in_shardings=(weights, rows, rows, whole),
            out_shardings=(whole, whole, rows),
        )
        self.radius = jax.jit(
            self._in_mesh(self._radius),
            in_shardings=(weights, rows, rows, whole, whole),
            out_shardings=whole,
        )
        self.count_differing = jax.jit(self._in_mesh(self._count), out_shardings=whole)

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """On the mesh."""
        return NamedSharding(self.mesh, spec)

    def lowered(self, state: TrainState, batch: Any, *, pretraining: bool = False) -> Any:
        """The training step, not compiled yet; nothing is placed on any device.

        Args:
            state: of shapes.
            batch: of shapes, the rows of all devices.
            pretraining: whether it is a step of the warm-up stage.

        Returns:
            A `jax.stages.Lowered`.
        """
        number = jax.ShapeDtypeStruct((self.mesh.shape[AXIS],), jnp.int32)
        step = self.pretrain if pretraining else self.train
        return step.lower(state, batch, number, number)

    def _train(
        self, pretraining: bool, state: TrainState, batch: Any, number: jax.Array, stop: jax.Array
    ) -> tuple[TrainState, Metrics, Control]:
        def gradient(state: TrainState, batch: Any, number: jax.Array, stop: jax.Array) -> Found:
            state = state._replace(weights=self._gathered(state.weights))
            own = _replicas(number[0], self._scattered)
            return gradient_step(
                self._problem, state, batch, own, stop=stop[0], pretraining=pretraining
            )

        # the optimizer's state and the average stay as they are, divided
        known = state._replace(optimizer=None, average=None)
        specs = self.specs._replace(optimizer=None, average=None)
        whole: Any = _WHOLE
        parts = Found(specs.weights.parameters, whole, whole, _ROWS, whole)
        mapped = self._mapped(gradient, (specs, _ROWS, _ROWS, _ROWS), parts)
        found: Found = mapped(known, batch, number, stop)
        wanted = self.shardings.weights.parameters
        found = found._replace(gradient=lax.with_sharding_constraint(found.gradient, wanted))
        after, metrics, control = update_step(self._problem, state, found)
        return after, _as_one_copy(metrics), _as_one_copy(control)

    def _evaluate(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits
    ) -> tuple[Metrics, Metrics, Any]:
        def own(weights: Weights, batch: Any, memory: Any, limits: SolveLimits) -> Any:
            whole = self._gathered(weights)
            return evaluate_step(self._problem, whole, batch, memory, limits, _replicas(0))

        mapped = self._mapped(
            own, (self.specs.weights, _ROWS, _ROWS, _WHOLE), (_WHOLE, _WHOLE, _ROWS)
        )
        metrics, counts, memory = mapped(weights, batch, memory, limits)
        return _as_one_copy(metrics), _as_one_copy(counts), memory

    def _radius(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def own(
            weights: Weights, batch: Any, memory: Any, limits: SolveLimits, key: jax.Array
        ) -> Any:
            whole = self._gathered(weights)
            found = radius_step(self._problem, whole, batch, memory, limits, key)
            return lax.all_gather(found, AXIS, tiled=True)

        mapped = self._mapped(
            own, (self.specs.weights, _ROWS, _ROWS, _WHOLE, _WHOLE), (_WHOLE, _WHOLE)
        )
        radii, counted = mapped(weights, batch, memory, limits, key)
        return radii, counted

    def _count(self, state: TrainState) -> jax.Array:
        """() int32, numbers of which some device has another copy."""
        leaves = jax.tree.leaves(state)
        specs = jax.tree.leaves(self.specs._replace(memory=None), is_leaf=is_spec)

        def own(leaves: Sequence[jax.Array]) -> jax.Array:
            each = (_differing(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True))
            total: jax.Array = sum(each, start=jnp.int32(0))
            return total

        every = jax.shard_map(
            own, mesh=self.mesh, in_specs=(specs,), out_specs=_WHOLE, check_vma=False
        )
        count: jax.Array = every(leaves)
        return count

    def _in_mesh(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function in this mesh, in whichever one its caller is."""

        def inside(*inputs: Any) -> Any:
            with use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*inputs)

        return inside

    def _mapped(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """Manual over "data"; over "model" too where that is a single device."""
        alone = self.mesh.shape[MODEL] == 1
        in_specs, out_specs = jax.tree.map(
            lambda spec: only(spec, AXIS), (in_specs, out_specs), is_leaf=is_spec
        )
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names={AXIS, MODEL} if alone else {AXIS},
            check_vma=False,  # a model is written for one device
        )

    def _gathered(self, weights: Weights) -> Weights:
        """Whole over "data", and divided over "model" as they were."""

        def gather(spec: PartitionSpec, leaf: jax.Array) -> jax.Array:
            place = place_of(spec, AXIS)
            if place is not None:
                leaf = lax.all_gather(leaf, AXIS, axis=place, tiled=True)
            return self._kept_on_model(leaf, spec)

        whole = jax.tree.map(
            gather, self.specs.weights.parameters, weights.parameters, is_leaf=is_spec
        )
        return weights._replace(parameters=whole)

    def _scattered(self, gradient: Any) -> Any:
        """Each device's part of the mean."""
        count = self.mesh.shape[AXIS]

        def scatter(spec: PartitionSpec, leaf: jax.Array) -> jax.Array:
            place = place_of(spec, AXIS)
            leaf = self._kept_on_model(leaf, spec)
            if place is None:
                total = lax.psum(leaf, AXIS)
            else:
                total = lax.psum_scatter(leaf, AXIS, scatter_dimension=place, tiled=True)
            mean: jax.Array = total / count
            return mean

        return jax.tree.map(scatter, self.specs.weights.parameters, gradient, is_leaf=is_spec)

    def _kept_on_model(self, leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        if self.mesh.shape[MODEL] == 1:
            return leaf
        kept: jax.Array = lax.with_sharding_constraint(leaf, computed(spec))
        return kept


def _replicas(number: jax.Array | int, gradient: Any = None) -> Replicas:
    return Replicas(
        number,
        mean=functools.partial(lax.pmean, axis_name=AXIS),
        total=functools.partial(lax.psum, axis_name=AXIS),
        largest=functools.partial(lax.pmax, axis_name=AXIS),
        gradient=gradient,
    )


def _as_one_copy(tree: Any) -> Any:
    """With a leading axis of length 1, as `first_replica` takes them."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _differing(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    """How many numbers of an array differ between devices that hold the same part of it."""
    divided = tuple(axis for entry in spec for axis in axes_of(entry))
    copies = tuple(axis for axis in (AXIS, MODEL) if axis not in divided)
    total: jax.Array = count_differing(leaf, copies) if copies else jnp.int32(0)
    if copies and divided:
        total = lax.psum(total, divided)
    return total
