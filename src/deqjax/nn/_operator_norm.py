"""A bound of a convolution's operator norm that is never too small, and cheap to differentiate."""

import jax
import jax.numpy as jnp
from jax import lax


def convolution_norm_bound(kernel: jax.Array, *, iterations: int = 6) -> jax.Array:
    """An upper bound of ||x -> kernel * x||, zero-padded, stride 1, for images of any size.

    The operator norm is at most sqrt(h w) times the spectral norm of the kernel as a matrix of
    (h out) x (w in) (Singla & Feizi, ICLR 2021, "Fantastic Four", theorem 1), and so it is for
    (w out) x (h in). The spectral norm in turn is at most ||(M^T M)^(2^k)||_F^(1/2^(k+1)), which
    comes down to it as k grows (Delattre, Barthelemy, Araujo & Allauzen, ICML 2023, "Efficient
    bound of Lipschitz constant for convolutional layers by Gram iteration"). Power iteration would
    come from below instead and promise nothing.

    Args:
        kernel: (height, width, in, out).
        iterations: k, squarings of the Gram matrix.

    Returns:
        () float32, positive, differentiable.
    """
    height, width, inputs, outputs = kernel.shape
    whole = kernel.astype(jnp.float32)
    # fourth powers of the entries would leave float32's range
    largest = lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(whole)), 1e-15))
    whole = whole / largest
    rows = whole.transpose(0, 3, 1, 2).reshape(height * outputs, width * inputs)
    columns = whole.transpose(1, 3, 0, 2).reshape(width * outputs, height * inputs)
    norms = [_spectral_norm_bound(matrix, iterations) for matrix in (rows, columns)]
    # a little above what rounding in float32 could take away
    return 1.0001 * largest * jnp.sqrt(jnp.float32(height * width)) * jnp.minimum(*norms)


def _spectral_norm_bound(matrix: jax.Array, iterations: int) -> jax.Array:
    """Gram iteration, rescaled at each squaring; the logarithm of the scale is kept."""
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    tiny = jnp.finfo(jnp.float32).tiny

    def square(
        carry: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        gram, logarithm = carry
        size = jnp.sqrt(jnp.sum(gram**2) + tiny)
        gram = gram / size
        return (gram @ gram, 2 * (logarithm + jnp.log(size))), None

    (gram, logarithm), _ = lax.scan(square, (gram, jnp.float32(0)), length=iterations)
    logarithm += 0.5 * jnp.log(jnp.sum(gram**2) + tiny)
    return jnp.exp(logarithm / 2 ** (iterations + 1))
