"""The multiscale deep equilibrium model for images.

Bai, Koltun & Kolter, NeurIPS 2020, "Multiscale Deep Equilibrium Models", arXiv 2006.08656, and Bai,
Koltun & Kolter, ICML 2021, "Stabilizing Equilibrium Models by Jacobian Regularization", arXiv
2106.14342, for the regularized recipes.
"""

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.types import Scalar
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.models._equilibrium import iterate
from deqjax.models._image_model import (
    ImageModel,
    ImagePrediction,
    check_images,
    check_probes,
    prediction_of,
)
from deqjax.models._solver_settings import SolverSettings
from deqjax.models.mdeq._cell import MDEQCell, MDEQInputs
from deqjax.models.mdeq._head import ClassificationHead, SegmentationHead
from deqjax.models.mdeq._shape import MDEQShape
from deqjax.models.mdeq._stem import MDEQStem
from deqjax.solvers import Solution


class MDEQ(ImageModel):
    """Image model whose feature maps, at several scales, are one fixed point.

    Batch norms stand in the stem and in the head, so a training call changes their statistics once
    and never inside the solve.

    Args:
        shape: sizes and options.
        settings: how the equilibrium is found and differentiated; None is the defaults.
        solver: a solver of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient, instead of the settings'.
        rngs: streams "params" and "dropout".

    Attributes:
        shape: sizes and options.
        stages: solves of one call, one.
        stem: from images to what is injected.
        deq: the equilibrium layer, around an [`deqjax.models.MDEQCell`][].
        head: from the feature maps to logits.

    Raises:
        ValueError: sizes that are not known, or an adjoint that does not go with the solver.
    """

    stages = 1

    def __init__(
        self,
        shape: MDEQShape,
        settings: SolverSettings | None = None,
        *,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        shape.check_known()
        self.shape = shape
        self.stem = MDEQStem(shape, rngs=rngs)
        cell = MDEQCell(shape, rngs=rngs)
        self.deq = (settings or SolverSettings()).build_layer(cell, solver, adjoint, shape.dtype)
        head = ClassificationHead if shape.task == "classification" else SegmentationHead
        self.head: ClassificationHead | SegmentationHead = head(shape, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the parameters, and so of the state."""
        return jnp.dtype(self.stem.layers[0].weight.kernel[...].dtype)

    def zero_state(self, batch: int, height: int, width: int) -> tuple[jax.Array, ...]:
        """Z = 0 for images of this size: (batch, height / 2^i, width / 2^i, channels) per branch.

        Raises:
            ValueError: height or width is no multiple of what down-sampling divides by.
        """
        self.shape.check_size(height, width)
        times = self.shape.downsample_times
        return tuple(
            jnp.zeros((batch, height >> (times + i), width >> (times + i), channels), self.dtype)
            for i, channels in enumerate(self.shape.channels)
        )

    def inputs(self, images: jax.Array) -> MDEQInputs:
        """What the cell needs besides z for images (batch, height, width, channels).

        In training mode this draws dropout masks and moves the stem's running statistics.

        Raises:
            ValueError: images of another form or size.
        """
        check_images(images, self.shape.image_channels)
        self.shape.check_size(*images.shape[1:3])
        cell = cast(MDEQCell, self.deq.cell)
        return cell.prepare(self.stem(images.astype(self.dtype)))

    def __call__(
        self,
        images: jax.Array,
        *,
        probes: Sequence[BackwardStats] = (),
        z0: tuple[jax.Array, ...] | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        layers: int | None = None,
    ) -> ImagePrediction:
        """Classify images or their pixels; see [`deqjax.models.ImageModel`][].

        Args:
            images: (batch, height, width, channels), normalized.
            probes: one [`deqjax.backward_probe`][] of this batch, or none.
            z0: start of the solve, as `zero_state`; zeros if None.
            tol: overrides the tolerance, may be traced.
            max_steps: overrides the step limit, may be traced.
            layers: instead of solving, apply the cell so many times and differentiate through all
                of them: the published warm-up stage. There are no equilibria then.

        Raises:
            ValueError: images of another form or size, or several probes.
        """
        check_probes(probes, self.stages)
        u = self.inputs(images)
        z, found = iterate(
            self.deq,
            u,
            self.zero_state(*images.shape[:3]) if z0 is None else z0,
            probe=probes[0] if probes else None,
            tol=tol,
            max_steps=max_steps,
            layers=layers,
        )
        return prediction_of(self.head(z), [found])
