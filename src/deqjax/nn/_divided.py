"""Dividing a model's own arrays among the devices that share the work on a row."""

from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec

MODEL_AXIS = "model"
"""The axis of a mesh whose devices share the work on a row."""


def divided(array: jax.Array, axis: int) -> jax.Array:
    """Divide an axis over the mesh's "model" devices; the array as it is where there are none.

    A hint to the compiler, for models that are trained with ``--parallel sharded --model-devices``:
    it divides what is computed from the array likewise, and exchanges what must be. It belongs on
    weights before a solve (the heads of an attention), or, for rows that are long, on an axis of
    the state; the solver then sums norms over these devices in each step.

    Args:
        array: any.
        axis: that is divided; one that the number of devices does not divide stays whole.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.nn import divided
        >>> divided(jnp.ones((4, 8)), axis=1).shape  # no mesh here
        (4, 8)
    """
    if not is_divided(array, axis):
        return array
    entries: list[Any] = [PartitionSpec.UNCONSTRAINED] * array.ndim
    entries[axis] = MODEL_AXIS
    result: jax.Array = lax.with_sharding_constraint(array, PartitionSpec(*entries))
    return result


def is_divided(array: jax.Array, axis: int) -> bool:
    """Whether `divided` would divide this axis of the array, or leave it as it is.

    Args:
        array: any.
        axis: of it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.nn import is_divided
        >>> is_divided(jnp.ones((4, 8)), axis=1)  # no mesh here
        False
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or MODEL_AXIS not in mesh.axis_names:
        return False
    kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[MODEL_AXIS]
    devices: int = mesh.shape[MODEL_AXIS]
    return kind == AxisType.Auto and devices > 1 and array.shape[axis] % devices == 0
