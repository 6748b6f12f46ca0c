"""What the tests of the experiments share."""

import jax
import pytest


@pytest.fixture
def compile_fast():
    """Nothing here looks at a time, and the models are tiny: spare the compiler its work."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
