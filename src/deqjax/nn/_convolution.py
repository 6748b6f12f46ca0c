"""Kernels of two-dimensional convolutions, normalized or not, and the convolution with them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class ConvWeight(nnx.Module):
    """A kernel (size, size, in, out), as it is or by weight normalization.

    w = g v / ||v||, the norm over all axes but the output, for each output (Salimans & Kingma,
    NeurIPS 2016, arXiv 1602.07868, equation 2). Initially v is normal and g = ||v||, so both forms
    start alike.

    Call it once before a solve: the division is no work for a solver's loop.

    Args:
        inputs: channels in.
        outputs: channels out.
        size: height and width of the kernel, odd.
        normalized: whether to normalize.
        deviation: standard deviation of the initial kernel.
        rngs: stream "params".

    Attributes:
        kernel: v, (size, size, inputs, outputs) float32.
        gain: g, (outputs,) float32; None without normalization.

    Raises:
        ValueError: an even size, which has no middle.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        normalized: bool = False,
        deviation: float = 0.01,
        rngs: nnx.Rngs,
    ) -> None:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"a kernel's size must be odd and positive, got {size}.")
        kernel = jax.random.normal(rngs.params(), (size, size, inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(deviation * kernel)
        self.gain = nnx.Param(_norms(self.kernel[...])) if normalized else None

    def __call__(self) -> jax.Array:
        """The kernel to convolve with, (size, size, in, out)."""
        kernel: jax.Array = self.kernel[...]
        if self.gain is None:
            return kernel
        gain: jax.Array = self.gain[...]
        return kernel * (gain / _norms(kernel))[None, None, None]


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """The cross-correlation of x with a kernel, in the kernel's dtype.

    Both sides are padded with size // 2 zeros, whatever the stride: a 3x3 convolution of stride 2
    pads 1 on both sides as PyTorch's does, where "SAME" would pad an even image on one side only.

    Args:
        x: (batch, height, width, in).
        kernel: (size, size, in, out), the size odd.
        stride: of both axes.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), out).
    """
    height, width = (size // 2 for size in kernel.shape[:2])
    return lax.conv_general_dilated(
        x.astype(kernel.dtype),
        kernel,
        (stride, stride),
        ((height, height), (width, width)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _norms(kernel: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(kernel**2, axis=(0, 1, 2)))
