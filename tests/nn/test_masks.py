"""Dropout masks: what they hold, when there is none."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.nn import DropoutMask, masked


def drawn(rate=0.2, shape=(100, 1, 100), dtype=jnp.float32):
    return DropoutMask(rate, rngs=nnx.Rngs(0))(shape, dtype)


def test_a_mask_holds_zero_and_the_inverse_of_the_kept_share():
    np.testing.assert_allclose(np.unique(drawn()), [0, 1.25])


def test_a_mask_is_unbiased():
    # 10000 entries of standard deviation 0.5: 0.005 for their mean
    assert abs(float(drawn().mean()) - 1) < 0.02


def test_a_mask_has_the_shape_and_dtype_asked_for():
    mask = drawn(shape=(3, 1, 2), dtype=jnp.bfloat16)
    assert mask.shape == (3, 1, 2)
    assert mask.dtype == jnp.bfloat16


def test_each_call_draws_another_mask():
    mask = DropoutMask(0.5, rngs=nnx.Rngs(0))
    assert (mask((4, 8), jnp.float32) != mask((4, 8), jnp.float32)).any()


def test_there_is_no_mask_in_evaluation():
    mask = DropoutMask(0.5, rngs=nnx.Rngs(0))
    mask.eval()
    assert mask((4, 8), jnp.float32) is None


def test_there_is_no_mask_at_rate_zero():
    assert drawn(rate=0.0) is None


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_outside_of_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match=rf"dropout rate must lie in \[0, 1\), got {rate}"):
        DropoutMask(rate, rngs=nnx.Rngs(0))


def test_masked_multiplies_all_positions_alike_in_their_dtype():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    mask = jnp.array([[[0, 2, 0, 2]], [[2, 2, 0, 0]]], jnp.float32)
    result = masked(x, mask)
    assert result.dtype == jnp.bfloat16
    for position in range(3):
        np.testing.assert_array_equal(result[:, position].astype(jnp.float32), mask[:, 0])


def test_nothing_is_masked_without_a_mask():
    x = jnp.ones((2, 3))
    assert masked(x, None) is x
