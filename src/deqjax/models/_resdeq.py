"""The single-scale convolutional DEQ of the Jacobian-free and the reversible papers.

Fung, Heaton, Li, McKenzie, Osher & Yin, AAAI 2022, "JFB: Jacobian-Free Backpropagation for Implicit
Networks", and McCallum et al. 2025, arXiv 2509.12917, "Reversible Deep Equilibrium Models": one
residual cell with group normalization between a stem and a pooled linear head.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.types import Scalar
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.models._equilibrium import Equilibrium, Unrolled, iterate
from deqjax.models._image_model import (
    ImageModel,
    ImagePrediction,
    check_images,
    check_probes,
    prediction_of,
)
from deqjax.models._precision import cell_dtype
from deqjax.models._residual_shape import ResidualShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.nn import (
    Affine,
    ConvBatchNorm,
    ConvWeight,
    DropoutMask,
    GroupAffine,
    convolution_norm_bound,
    convolve,
    group_norm,
    masked,
)
from deqjax.solvers import Solution


class ResidualInputs(NamedTuple):
    """What a cell needs besides z, the same in every iteration.

    Attributes:
        injection: (batch, height, width, channels).
        inner: kernel (3, 3, channels, hidden) of the first convolution, ready to use.
        outer: (3, 3, hidden, channels), of the second one.
        affine: scale and shift of each group norm.
        mask: (batch, 1, 1, hidden) dropout of the maps between the two, or None.
    """

    injection: jax.Array
    inner: jax.Array
    outer: jax.Array
    affine: tuple[Affine, ...]
    mask: jax.Array | None


class ResidualCell(nnx.Module):
    """f(z) = GN(ReLU(z + GN(x + W2 * drop(GN(ReLU(W1 * z)))))).

    Attributes:
        shape: sizes and options.
        inner: kernel W1.
        outer: kernel W2.
        affine: parameters of the three group norms.
        mask: dropout of the maps between the two convolutions.
    """

    def __init__(self, shape: ResidualShape, stage: int, *, rngs: nnx.Rngs) -> None:
        channels, hidden = shape.channels[stage], shape.hidden_channels(stage)
        self.shape = shape
        self.inner = ConvWeight(channels, hidden, 3, deviation=(9 * channels) ** -0.5, rngs=rngs)
        self.outer = ConvWeight(hidden, channels, 3, deviation=(9 * hidden) ** -0.5, rngs=rngs)
        # What is injected starts larger than z, and what is computed from z smaller: the last norm
        # divides by the sum's deviation, so this cell is a contraction at first.
        self.affine = nnx.List(
            GroupAffine(size, scale=scale)
            for size, scale in ((hidden, 0.3), (channels, 2.0), (channels, 1.0))
        )
        self.mask = DropoutMask(shape.dropout, rngs=rngs)

    def prepare(self, injection: jax.Array) -> ResidualInputs:
        """Everything that does not depend on z, for x (batch, height, width, channels)."""
        dtype = cell_dtype(self.shape.dtype, jnp.dtype(jnp.float32))
        inner, outer = self.inner().astype(dtype), self.outer().astype(dtype)
        mask = self.mask((len(injection), 1, 1, inner.shape[-1]), dtype)
        affine = tuple(each() for each in self.affine)
        return ResidualInputs(injection.astype(dtype), inner, outer, affine, mask)

    def __call__(self, z: jax.Array, u: ResidualInputs) -> jax.Array:
        """One application, (batch, height, width, channels), in z's dtype."""
        groups, (first, second, last) = self.shape.groups, u.affine
        hidden = group_norm(jax.nn.relu(convolve(z, u.inner)), groups, first)
        y = group_norm(u.injection + convolve(masked(hidden, u.mask), u.outer), groups, second)
        return group_norm(jax.nn.relu(z + y.astype(z.dtype)), groups, last)


class ContractiveCell(nnx.Module):
    """f(z) = ReLU(x + c W2/||W2|| * drop(ReLU(W1/||W1|| * z))), a contraction by the factor c < 1.

    ReLU does not stretch, nor does a mask whose scale the factor takes back, so by Banach's theorem
    there is one fixed point, and plain iteration reaches it at the rate c: a fixed point network
    (Heaton, Wu Fung, Gibali & Yin, 2021, arXiv 2104.00810, section 3). There is no normalization of
    activations: it would stretch without bound.

    Attributes:
        shape: sizes and options.
        contraction: the factor c.
        inner: kernel W1.
        outer: kernel W2.
        mask: dropout of the maps between the two.

    Raises:
        ValueError: the shape has no contraction.
    """

    def __init__(self, shape: ResidualShape, stage: int, *, rngs: nnx.Rngs) -> None:
        channels, hidden = shape.channels[stage], shape.hidden_channels(stage)
        if shape.contraction is None:
            raise ValueError("a contractive cell needs a contraction between 0 and 1, got None.")
        self.shape, self.contraction = shape, shape.contraction
        self.inner = ConvWeight(channels, hidden, 3, deviation=(9 * channels) ** -0.5, rngs=rngs)
        self.outer = ConvWeight(hidden, channels, 3, deviation=(9 * hidden) ** -0.5, rngs=rngs)
        self.mask = DropoutMask(shape.dropout, rngs=rngs)

    def prepare(self, injection: jax.Array) -> ResidualInputs:
        """Everything that does not depend on z; the kernels have operator norms 1 and c."""
        dtype = cell_dtype(self.shape.dtype, jnp.dtype(jnp.float32))
        inner, outer = self.inner(), self.outer()
        mask = self.mask((len(injection), 1, 1, inner.shape[-1]), dtype)
        # a kept unit of the mask is stretched by 1 / (1 - rate)
        factor = self.contraction * (1 - self.shape.dropout)
        inner /= convolution_norm_bound(inner)
        outer *= factor / convolution_norm_bound(outer)
        return ResidualInputs(
            injection.astype(dtype), inner.astype(dtype), outer.astype(dtype), (), mask
        )

    def __call__(self, z: jax.Array, u: ResidualInputs) -> jax.Array:
        """One application, (batch, height, width, channels), in z's dtype."""
        hidden = masked(jax.nn.relu(convolve(z, u.inner)), u.mask)
        return jax.nn.relu(u.injection + convolve(hidden, u.outer)).astype(z.dtype)


class ResDEQ(ImageModel):
    """Image classifier: stem, equilibrium layers with down-sampling between them, pooled head.

    Args:
        shape: sizes and options.
        settings: how each equilibrium is found and differentiated; None is the defaults.
        solver: forward solver of your own, instead of the settings'.
        adjoint: rule for the gradient of your own, instead of the settings'.
        rngs: streams "params" and "dropout".

    Attributes:
        stages: how many equilibrium layers there are.
        entries: injections, one convolution with batch normalization before each stage.
        layers: the equilibrium layers.
        head: pooled features -> logits.

    Raises:
        ValueError: sizes that are not known or do not go together, or an adjoint that does not fit
            the method.
    """

    def __init__(
        self,
        shape: ResidualShape,
        settings: SolverSettings | None = None,
        *,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        shape.check_known()
        self.shape = shape
        self.stages = len(shape.channels)
        self.entries = entries(shape, rngs=rngs)
        cell = ResidualCell if shape.contraction is None else ContractiveCell
        self.layers = nnx.List(
            (settings or SolverSettings()).build_layer(
                cell(shape, stage, rngs=rngs), solver, adjoint, shape.dtype
            )
            for stage in range(self.stages)
        )
        self.head = PooledHead(shape, rngs=rngs)

    def __call__(
        self,
        images: jax.Array,
        *,
        probes: Sequence[BackwardStats] = (),
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        layers: int | None = None,
    ) -> ImagePrediction:
        """Classify images; see [`ImageModel`][deqjax.models.ImageModel]."""
        check_images(images, self.shape.image_channels)
        self.shape.check_size(*images.shape[1:3])
        check_probes(probes, self.stages)
        x, found = images, list[Equilibrium | Unrolled]()
        for stage, (entry, layer) in enumerate(zip(self.entries, self.layers, strict=True)):
            cell = cast(ResidualCell | ContractiveCell, layer.cell)
            u = cell.prepare(jax.nn.relu(entry(x)))
            x, point = iterate(
                layer,
                u,
                jnp.zeros(u.injection.shape, jnp.float32),
                probe=probes[stage] if probes else None,
                tol=tol,
                max_steps=max_steps,
                layers=layers,
            )
            found.append(point)
        return prediction_of(self.head(x), found)


def entries(shape: ResidualShape, *, rngs: nnx.Rngs) -> nnx.List[ConvBatchNorm]:
    """The stem and the down-sampling before each further stage, without their ReLU."""
    inputs = (shape.image_channels, *shape.channels[:-1])
    strides = (shape.stem_stride, *(2 for _ in shape.channels[1:]))
    return nnx.List(
        ConvBatchNorm(before, after, 3, stride=stride, rngs=rngs)
        for before, after, stride in zip(inputs, shape.channels, strides, strict=True)
    )


class PooledHead(nnx.Module):
    """Linear(means of x over a grid of equal parts), logits (batch, classes) float32."""

    def __init__(self, shape: ResidualShape, *, rngs: nnx.Rngs) -> None:
        self.grid = shape.pooled_grid
        self.linear = nnx.Linear(self.grid**2 * shape.channels[-1], shape.logits, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of feature maps (batch, height, width, channels)."""
        batch, height, _, channels = x.shape
        parts = x.reshape(batch, self.grid, height // self.grid, self.grid, -1, channels)
        logits: jax.Array = self.linear(jnp.mean(parts, axis=(2, 4)).reshape(batch, -1))
        return logits
