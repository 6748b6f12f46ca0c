"""What a backward solve costs beyond its vector-Jacobian products, and what compilation takes."""

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

import deqjax
from cells import Cell
from rules import Row, Rule, loss_of
from timing import interleaved, milliseconds, ratio


def backward_cost(cell: Cell, steps: int, repeats: int) -> Row:
    """The backward solve over its bare vector-Jacobian products."""
    problem = (cell.weights, cell.inputs, cell.z0)

    @jax.jit
    def linearized(weights, inputs, z0):
        z = deqjax.fixed_point(cell.f, z0, weights, inputs).value
        return z, jax.vjp(lambda z: cell.f(z, weights, inputs), z)[1]

    z, pull = linearized(*problem)
    cotangent = jax.tree.map(lambda x: x / jnp.sqrt(jnp.mean(x * x)), z)

    def adjoint_map(pull, v, w):
        return jax.tree.map(jnp.add, pull(w)[0], v)

    @jax.jit
    def solve(pull, v):
        f = partial(adjoint_map, pull, v)
        return deqjax.solvers.anderson(f, v, tol=0.0, max_steps=steps)

    @jax.jit
    def bare(pull, v):
        return lax.fori_loop(0, steps + 1, lambda _, w: adjoint_map(pull, v, w), v)

    evaluations = int(solve(pull, cotangent).stats.evaluations)
    # a sample that hits residual 0 would end the solve early
    if evaluations != steps + 1:
        raise ValueError(f"{cell.name}: {evaluations} backward evaluations, not {steps + 1}.")
    anderson, adjoints = deqjax.solvers.anderson, deqjax.adjoints
    whole = {
        "implicit": Rule("", anderson, adjoints.implicit(tol=0.0, max_steps=steps), True),
        "jacobian_free": Rule("", anderson, adjoints.jacobian_free(), True),
    }
    runs = {
        name: partial(jax.jit(jax.value_and_grad(loss_of(cell, rule, steps))), *problem)
        for name, rule in whole.items()
    }
    runs |= {"solve": partial(solve, pull, cotangent), "bare": partial(bare, pull, cotangent)}
    seconds = interleaved(runs, repeats)
    differences = zip(
        *(seconds[name] for name in ("implicit", "jacobian_free", "bare")), strict=True
    )
    return {
        "cell": cell.name,
        "evaluations": evaluations,
        "solve_ms": milliseconds(seconds["solve"]),
        "bare_ms": milliseconds(seconds["bare"]),
        "ratio": ratio(seconds["solve"], seconds["bare"]),
        "ratio_in_gradient": statistics.median((i - j) / b for i, j, b in differences),
        "repeats": repeats,
    }


def cold_compilation(cell: Cell, max_steps: int, repeats: int) -> Row:
    """Seconds from a Python function to the compiled value and gradient, without any cache."""
    problem = (cell.weights, cell.inputs, cell.z0)
    rule = Rule("", deqjax.solvers.anderson, deqjax.adjoints.implicit(), True)
    persistent = jax.config.jax_enable_compilation_cache
    seconds = []
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        for _ in range(repeats):
            jax.clear_caches()
            loss = loss_of(cell, rule, max_steps)
            start = time.perf_counter()
            jax.jit(jax.value_and_grad(loss)).lower(*problem).compile()
            seconds.append(time.perf_counter() - start)
    finally:
        jax.config.update("jax_enable_compilation_cache", persistent)
    return {
        "cell": cell.name,
        "max_steps": max_steps,
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
    }
