"""deqjax: deep equilibrium models in JAX."""
