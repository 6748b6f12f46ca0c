"""What the solvers, the adjoints and the diagnostics share: algebra of states, tracing, sharding.

Every part of the library may use these modules; nobody outside of it should, for they change
without notice. They import JAX and each other, and nothing above.
"""

__all__: list[str] = []
