"""Set up for every test: virtual devices before any backend starts, and precision by fixture."""

import jax
import pytest

# Four virtual devices for pmap and shard_map; arrays still go to the first one by default.
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture
def float64():
    """64-bit arrays by default, for comparisons with LAPACK."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """No implicit casts and no implicit broadcasts over new axes: the core must survive both."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
