"""Solve time against bare evaluations of f: what the solver itself costs.

Command: python experiments/benchmarks/solve_overhead.py [--steps 29 --repeats 41 --history 6]

For each cell, one compiled Anderson solve that runs all its steps (tolerance 0) is timed against
one compiled loop with the same number of evaluations z <- f(z). Both run alternately in one
process, and the median of the pairs' ratios is printed. Targets on two CPU cores: 1.05 for the
Transformer cell and 1.30 for the matmul cell. Takes about a minute.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

import deqjax


def matmul_cell(key: jax.Array, batch: int = 64, width: int = 1024):
    """One width x width matrix product and tanh, spectral radius about 0.9."""
    weight_key, input_key = jax.random.split(key)
    weight = 0.9 * jax.random.normal(weight_key, (width, width)) / width**0.5
    injection = jax.random.normal(input_key, (batch, width))

    def f(z):
        return jnp.tanh(z @ weight + injection)

    return f, jnp.zeros((batch, width))


def transformer_cell(key: jax.Array, batch: int = 8, length: int = 64, width: int = 128):
    """Causal attention and a feed-forward of 2560 with post-LN, as in the language models."""
    heads, hidden = 4, 2560
    keys = iter(jax.random.split(key, 5))

    def normal(*shape):
        return jax.random.normal(next(keys), shape) / shape[0] ** 0.5

    qkv, out, up, down = (
        normal(width, 3 * width),
        normal(width, width),
        normal(width, hidden),
        normal(hidden, width),
    )
    injection = jax.random.normal(next(keys), (batch, length, 3 * width))

    def layer_norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)

    def f(z):
        parts = jnp.split(z @ qkv + injection, 3, axis=-1)
        q, k, v = (p.reshape(batch, length, heads, -1) for p in parts)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        h = layer_norm(z + attended.reshape(z.shape) @ out)
        return layer_norm(h + jax.nn.relu(h @ up) @ down)

    return f, jnp.zeros((batch, length, width))


def seconds(run: Callable[[jax.Array], jax.Array], z0: jax.Array) -> float:
    """Wall-clock time of one call, in seconds."""
    start = time.perf_counter()
    jax.block_until_ready(run(z0))
    return time.perf_counter() - start


def main() -> None:
    """Print one line per cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=29)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--history", type=int, default=6)
    arguments = parser.parse_args()
    solver = functools.partial(deqjax.solvers.anderson, history=arguments.history)

    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, medians of {arguments.repeats}")
    for name, cell in (("transformer", transformer_cell), ("matmul", matmul_cell)):
        f, z0 = cell(jax.random.key(0))
        evaluations = arguments.steps + 1

        @jax.jit
        def bare(z, f=f, evaluations=evaluations):
            return lax.fori_loop(0, evaluations, lambda _, z: f(z), z)

        @jax.jit
        def solve(z, f=f):
            return deqjax.fixed_point(f, z, solver=solver, tol=0.0, max_steps=arguments.steps)

        solution = solve(z0)
        assert int(solution.stats.evaluations) == evaluations
        jax.block_until_ready(bare(z0))
        times = [(seconds(solve, z0), seconds(bare, z0)) for _ in range(arguments.repeats)]
        solved, evaluated = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(with_solver / without for with_solver, without in times)
        print(
            f"{name:12s} {evaluations} evaluations: solve {1e3 * solved:7.1f} ms, "
            f"bare f {1e3 * evaluated:7.1f} ms, ratio {ratio:.3f}, "
            f"residual {float(solution.stats.residual.max()):.1e}"
        )


if __name__ == "__main__":
    main()
