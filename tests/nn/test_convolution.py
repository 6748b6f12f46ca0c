"""Convolutions, norms and resampling against loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.nn import (
    ConvBatchNorm,
    ConvWeight,
    GroupAffine,
    convolve,
    enlarge_nearest,
    group_norm,
    resize_bilinear,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 4)).astype(np.float32)


def correlate(x, kernel, stride):
    """The definition, pixel by pixel, with size // 2 zeros on all sides."""
    size = kernel.shape[0]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (range(0, n, stride) for n in x.shape[1:3])
    pixels = [
        [np.einsum("bijc,ijco->bo", padded[:, i : i + size, j : j + size], kernel) for j in columns]
        for i in rows
    ]
    return np.array(pixels).transpose(2, 0, 1, 3)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_a_convolution_pads_both_sides_alike(size, stride):
    kernel = RNG.standard_normal((size, size, 4, 3)).astype(np.float32)
    result = convolve(jnp.asarray(X), jnp.asarray(kernel), stride=stride)
    np.testing.assert_allclose(result, correlate(X, kernel, stride), rtol=0, atol=1e-5)


def test_a_convolution_computes_in_the_dtype_of_its_kernel():
    assert convolve(X, jnp.zeros((3, 3, 4, 2), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [0, 2])
def test_a_kernel_has_a_middle(size):
    with pytest.raises(ValueError, match=f"must be odd and positive, got {size}"):
        ConvWeight(2, 3, size, rngs=nnx.Rngs(0))


def test_a_normalized_kernel_has_its_gains_as_norms():
    weight = ConvWeight(2, 3, 3, normalized=True, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(weight(), weight.kernel[...], rtol=1e-6)
    weight.gain.set_value(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(jnp.linalg.norm(weight().reshape(-1, 3), axis=0), [1, 2, 3], 1e-6)
    assert jnp.std(weight.kernel[...]) < 0.02


def test_a_kernel_without_normalization_is_itself():
    weight = ConvWeight(2, 3, 1, rngs=nnx.Rngs(0))
    assert weight.gain is None
    np.testing.assert_array_equal(weight(), weight.kernel[...])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_norm_normalizes_each_group_of_neighboring_channels(groups):
    expected = np.empty_like(X)
    width = 4 // groups
    for sample in range(2):
        for group in range(groups):
            part = X[sample, :, :, group * width : (group + 1) * width]
            expected[sample, :, :, group * width : (group + 1) * width] = (
                part - part.mean()
            ) / np.sqrt(part.var() + 1e-5)
    np.testing.assert_allclose(group_norm(X, groups), expected, rtol=0, atol=1e-5)


def test_a_group_norm_scales_and_shifts_channels():
    affine = GroupAffine(4)
    np.testing.assert_array_equal(group_norm(X, 2, affine()), group_norm(X, 2))
    affine.scale.set_value(jnp.arange(4.0))
    affine.bias.set_value(jnp.arange(4.0) - 2)
    expected = np.asarray(group_norm(X, 2)) * np.arange(4) + np.arange(-2, 2)
    np.testing.assert_allclose(group_norm(X, 2, affine()), expected, rtol=0, atol=1e-6)


def test_statistics_of_bfloat16_are_those_of_float32():
    half = jnp.asarray(X + 100, jnp.bfloat16)
    result = group_norm(half, 2, GroupAffine(4)())
    assert result.dtype == jnp.bfloat16
    expected = group_norm(half.astype(jnp.float32), 2)
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=0.01, atol=0.02)


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match="4 channels are no multiple of 3 groups"):
        group_norm(X, 3)


def test_nearest_enlargement_repeats_pixels():
    expected = np.repeat(np.repeat(X, 4, axis=1), 4, axis=2)
    np.testing.assert_array_equal(enlarge_nearest(jnp.asarray(X), 4), expected)


@pytest.mark.parametrize("size", [(4, 6), (7, 16), (1, 1), (2, 3)])
def test_bilinear_interpolation_aligns_the_corners(size):
    result = resize_bilinear(jnp.asarray(X), *size)
    assert result.shape == (2, *size, 4)
    for i, j in np.ndindex(*size):
        y, x = (
            k * (m - 1) / max(n - 1, 1) for k, m, n in zip((i, j), X.shape[1:3], size, strict=True)
        )
        expected = 0
        for row, column in np.ndindex(4, 6):
            share = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
            expected = expected + share * X[:, row, column]
        np.testing.assert_allclose(result[:, i, j], expected, rtol=0, atol=1e-5)


def test_bilinear_interpolation_of_a_single_pixel_repeats_it():
    result = resize_bilinear(jnp.asarray(X[:, :1, :1]), 2, 3)
    np.testing.assert_array_equal(result, np.broadcast_to(X[:, :1, :1], (2, 2, 3, 4)))


def test_a_batch_norm_moves_its_statistics_by_a_tenth_in_training_only():
    layer = ConvBatchNorm(4, 2, 1, bias=True, affine=False, rngs=nnx.Rngs(0))
    assert layer.norm.scale is None
    assert layer.norm.bias is None
    layer.bias.set_value(jnp.array([1.0, -2.0]))
    y = np.asarray(convolve(X, layer.weight())) + np.array([1, -2], np.float32)
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    expected = (y - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(layer(X), expected, rtol=0, atol=1e-2)
    moved = np.asarray(layer.norm.mean[...]), np.asarray(layer.norm.var[...])
    np.testing.assert_allclose(moved[0], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved[1], 0.9 + 0.1 * variance, rtol=1e-4)
    layer.eval()
    running = (y - moved[0]) / np.sqrt(moved[1] + 1e-5)
    np.testing.assert_allclose(layer(X), running, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(layer.norm.mean[...], moved[0])


def test_gradients_reach_kernel_gain_and_affine():
    weight, affine = ConvWeight(4, 4, 3, normalized=True, rngs=nnx.Rngs(0)), GroupAffine(4)
    target = jnp.cos(jnp.arange(X.size, dtype=jnp.float32)).reshape(X.shape)

    def loss(weight, affine):
        return jnp.sum(group_norm(convolve(X, weight()), 2, affine()) * target)

    gradients = jax.tree.leaves(jax.jit(nnx.grad(loss, argnums=(0, 1)))(weight, affine))
    assert len(gradients) == 4
    assert all(jnp.abs(leaf).max() > 1e-6 for leaf in gradients)
