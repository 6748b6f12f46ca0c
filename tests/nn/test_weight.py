"""Weights with and without normalization."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax.nn import Weight

INPUTS, OUTPUTS = 6, 4


def weight(normalized=True, **options):
    return Weight(INPUTS, OUTPUTS, normalized=normalized, rngs=nnx.Rngs(0), **options)


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def set_apart():
    """A normalized weight whose gain is not the norm of its kernel; both in NumPy beside it."""
    normalized, v, g = weight(), random(INPUTS, OUTPUTS), random(OUTPUTS)
    normalized.kernel[...], normalized.gain[...] = jnp.asarray(v), jnp.asarray(g)
    return normalized, v, g


def test_a_normalized_weight_is_its_formula():
    normalized, v, g = set_apart()
    for output in range(OUTPUTS):
        column = g[output] * v[:, output] / np.sqrt(np.sum(v[:, output] ** 2))
        np.testing.assert_allclose(normalized()[:, output], column, rtol=1e-5)


def test_both_forms_start_alike():
    plain = weight(normalized=False)
    np.testing.assert_allclose(weight()(), plain(), rtol=1e-5)
    assert plain.gain is None


def test_the_gain_gets_the_gradient_along_the_direction():
    """d/dg of <w, t> is <v, t> / ||v||, for each output; v gets nothing along itself."""
    normalized, v, _ = set_apart()
    target = jnp.asarray(random(INPUTS, OUTPUTS) + 1)
    gradient = nnx.grad(lambda weight: jnp.sum(weight() * target))(normalized)
    direction = v / np.linalg.norm(v, axis=0)
    expected = (direction * np.asarray(target)).sum(0)
    np.testing.assert_allclose(gradient["gain"][...], expected, rtol=1e-4)
    along = (gradient["kernel"][...] * direction).sum(0)
    np.testing.assert_allclose(along, 0, atol=1e-5)
    assert (jnp.abs(gradient["kernel"][...]).max(0) > 1e-3).all()


def test_a_plain_weight_is_its_kernel():
    plain = weight(normalized=False)
    np.testing.assert_array_equal(plain(), plain.kernel[...])


def test_the_scale_is_relative_to_lecun():
    large = Weight(400, 100, scale=0.5, rngs=nnx.Rngs(0))()
    assert abs(float(large.std()) * np.sqrt(400) - 0.5) < 0.02
    np.testing.assert_allclose(weight(scale=0.5)(), 0.5 * weight(scale=1.0)(), rtol=1e-5)


def test_both_parameters_are_trained():
    assert len(jax.tree.leaves(nnx.state(weight(), nnx.Param))) == 2
