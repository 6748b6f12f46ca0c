"""A model whose arrays are all still to be set."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from deqjax.nn import reseed

Model = TypeVar("Model", bound=nnx.Module)


def blank(build: Callable[[], Model]) -> Model:
    """What ``build`` makes, without drawing initial values: its variables know shape and dtype.

    Initial weights that a checkpoint replaces would take longer than reading it. The random streams
    are seeded.
    """
    model: Model = nnx.eval_shape(build)
    reseed(model, jax.random.key(0))
    return model
