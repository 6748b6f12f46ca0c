import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core import algebra

pytestmark = pytest.mark.usefixtures("strict_promotion")


compiled_norm = jax.jit(algebra.norm)


def state():
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32),
        "c": jnp.asarray(rng.normal(size=(3,)), jnp.float32),
    }


def flat(tree):
    return np.concatenate([np.asarray(x, float).reshape(3, -1) for x in tree.values()], axis=1)


def test_dot_sums_over_all_leaves():
    other = algebra.scale(jnp.array([1.0, -2, 3]), state())
    np.testing.assert_allclose(
        algebra.dot(state(), other), (flat(state()) * flat(other)).sum(axis=1), rtol=1e-6
    )


def test_norm_is_that_of_the_whole_sample():
    np.testing.assert_allclose(
        algebra.norm(state()), np.linalg.norm(flat(state()), axis=1), rtol=1e-6
    )


def test_a_bfloat16_norm_is_accumulated_in_float32():
    found = algebra.norm(jnp.full((1, 65536), 0.5, jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 128, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("bfloat16", "float16"), "float32"),
        (("float32", "bfloat16"), "float32"),
        (("bfloat16", "float64"), "float64"),
    ],
)
def test_sums_are_as_wide_as_the_widest_leaf(float64, dtypes, expected):
    tree = [jnp.ones((2, 3), dtype) for dtype in dtypes]
    assert algebra.accumulation_dtype(tree) == expected
    assert algebra.dot(tree, tree).dtype == expected


def test_largest_is_over_all_leaves():
    np.testing.assert_allclose(
        algebra.largest(state()), np.abs(flat(state())).max(axis=1), rtol=1e-6
    )


def test_largest_shows_a_nan_in_its_sample_alone():
    tree = state()
    tree["b"] = tree["b"].at[1, 2, 3].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(algebra.largest(tree)), [False, True, False])


def test_largest_of_no_features_is_zero():
    np.testing.assert_array_equal(algebra.largest(jnp.zeros((2, 0))), [0, 0])


def test_select_is_sample_by_sample():
    ones, zeros = (algebra.scale(jnp.full((3,), x), state()) for x in (1.0, 0.0))
    found = algebra.select(jnp.array([True, False, True]), ones, zeros)
    np.testing.assert_array_equal(flat(found)[1], 0)
    np.testing.assert_array_equal(flat(found)[[0, 2]], flat(ones)[[0, 2]])


def test_mix_of_damping_one_is_the_image_itself():
    z, fz = state(), state()
    assert algebra.mix(z, fz, 1.0) is fz
    assert algebra.mix(z, fz, 1) is fz


def test_mix_is_convex():
    z, fz = state(), algebra.scale(jnp.array([5.0, 5, 5]), state())
    np.testing.assert_allclose(flat(algebra.mix(z, fz, 0.25)), 2 * flat(z), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("scale", [0, 1e-38, 1e-30, 1e-12, 1, 1e12, 1e30, 2e38, np.inf, np.nan])
def test_a_compiled_norm_holds_at_any_scale(size, scale):
    # XLA multiplies constants with each other first, where it may
    state = jnp.full((2, size), scale, jnp.float32) / jnp.float32(size)
    expected = np.linalg.norm(np.asarray(state, np.float64), axis=1)
    np.testing.assert_allclose(compiled_norm(state), expected, rtol=1e-6)
