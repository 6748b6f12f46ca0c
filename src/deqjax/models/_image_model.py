"""What the image models share: the form of their calls and of what they return."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import nnx

from deqjax._core.types import Scalar
from deqjax.adjoints import BackwardStats
from deqjax.models._equilibrium import Equilibrium, Unrolled


class ImagePrediction(NamedTuple):
    """What an image model returns.

    Attributes:
        logits: (batch, classes) float32 of a classifier, (batch, height, width, classes) of a
            segmentation model, at the resolution of its finest branch.
        equilibria: of each equilibrium layer; empty where nothing was solved.
        unrolled: of each, where its cell was only applied some times, as in the warm-up stage.
    """

    logits: jax.Array
    equilibria: tuple[Equilibrium, ...]
    unrolled: tuple[Unrolled, ...] = ()


def prediction_of(logits: jax.Array, found: Sequence[Equilibrium | Unrolled]) -> ImagePrediction:
    """A prediction with what its layers found."""
    return ImagePrediction(
        logits,
        tuple(each for each in found if isinstance(each, Equilibrium)),
        tuple(each for each in found if isinstance(each, Unrolled)),
    )


class ImageModel(nnx.Module):
    """An image model; its batch normalizations hold the only state that a call changes.

    Attributes:
        stages: equilibrium layers in it, 0 for an explicit model.
    """

    stages: int

    @abc.abstractmethod
    def __call__(
        self,
        images: jax.Array,
        *,
        probes: Sequence[BackwardStats] = (),
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        layers: int | None = None,
    ) -> ImagePrediction:
        """Classify images or their pixels.

        Args:
            images: (batch, height, width, channels), normalized.
            probes: [`deqjax.backward_probe`][] of this batch for each stage, or none.
            tol: overrides the tolerance, may be traced.
            max_steps: overrides the step limit, may be traced.
            layers: instead of solving, apply each cell so many times and differentiate through all
                of them: the published warm-up stage. There are no equilibria then.
        """


def check_images(images: jax.Array, channels: int) -> None:
    """Raise a ValueError unless images are (batch, height, width, channels)."""
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(
            f"images must be (batch, height, width, {channels}), got {tuple(images.shape)}."
        )


def check_probes(probes: Sequence[BackwardStats], stages: int) -> None:
    """Raise a ValueError unless there is a probe for each stage, or none."""
    if probes and len(probes) != stages:
        raise ValueError(
            f"a model with {stages} equilibrium layer(s) takes as many probes, or none; got "
            f"{len(probes)}."
        )
