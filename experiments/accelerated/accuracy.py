"""Values, gradients, penalty and spectrum on this device against float64 from LAPACK.

float32 is judged with full matrix products ("highest"); what the device makes of its default
setting, such as TF32, is told beside it. Rules whose gradient is no solution of a linear system are
compared with themselves, in float64 on the host's CPU: a fixed number of steps each, so that both
take the same path.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import deqjax as dq
from accelerated.part import Options, Tell
from accelerated.problems import RADIUS, Problem, joined, problems, split
from deqjax import adjoints, solvers

SAME_STEPS = 6


class Setting(NamedTuple):
    """A precision, what is asked of the solvers in it, and the largest error that is right.

    Attributes:
        name: for the record.
        dtype: of state and operands.
        precision: of matrix products, None is the device's default.
        tol: of both solves.
        limit: of the relative errors of value and gradient; None where they are only told.
    """

    name: str
    dtype: str
    precision: str | None
    tol: float
    limit: float | None


HIGHEST = Setting("float32, full products", "float32", "highest", 1e-6, 1e-3)
DOUBLE = Setting("float64", "float64", "highest", 1e-11, 1e-8)
DEFAULT = HIGHEST._replace(name="float32, default products", precision=None, limit=None)

Ways = dict[str, tuple[Callable[..., Any], adjoints.Adjoint]]


def exact(tol: float) -> Ways:
    """Solvers, each with a rule whose gradient is that of the fixed point itself."""
    most = 200
    anderson = partial(solvers.anderson, history=6)
    broyden = partial(solvers.broyden, rank=30)
    return {
        "anderson, implicit": (anderson, adjoints.implicit(tol=tol, max_steps=most)),
        "broyden, implicit by broyden": (broyden, adjoints.implicit(broyden, tol, most)),
        "newton_krylov, implicit by gmres": (
            solvers.newton_krylov,
            adjoints.implicit(solvers.gmres, tol, most),
        ),
        "picard, implicit by picard": (
            solvers.picard,
            adjoints.implicit(solvers.picard, tol, 2 * most),
        ),
        "picard, unrolled": (solvers.picard, adjoints.unrolled()),
    }


def approximate() -> Ways:
    """Rules that approximate, and the reversible one, which is exact for the steps it took."""
    return {
        "jacobian_free": (solvers.anderson, adjoints.jacobian_free()),
        "neumann": (solvers.anderson, adjoints.neumann(terms=3)),
        "phantom": (solvers.anderson, adjoints.phantom(steps=3)),
        "truncated": (solvers.anderson, adjoints.truncated(3)),
        "shine": (partial(solvers.broyden, rank=SAME_STEPS), adjoints.shine()),
        "reversible": (solvers.reversible, adjoints.reversible()),
    }


def measure(options: Options, tell: Tell) -> None:
    """All of it; what is checked first is told first."""
    settings = [HIGHEST, DOUBLE] if options.tiny else [HIGHEST, DEFAULT, DOUBLE]
    chosen = problems(options.tiny)
    tell("default of matrix products", str(jax.config.jax_default_matmul_precision))
    tell("settings", [setting._asdict() for setting in settings])
    jobs = {
        (problem.name, setting.name, way): partial(against_truth, problem, setting, way)
        for setting in settings
        for problem in chosen
        for way in exact(setting.tol)
    }
    rows = []
    for (problem, setting, way), errors in together(jobs):
        rows.append({"problem": problem, "setting": setting, "way": way, **errors})
        judged = [row["right"] for row in rows if row["right"] is not None]
        tell("right, of those judged", [sum(judged), len(judged)])
        tell("against LAPACK", rows)
    tell("a spoiled row", spoiled(chosen[-1]))
    tell("penalty and radius", penalty_and_radius(chosen[-1]))
    host = _host()
    if host is None:
        tell("against float64 on the host", "this process has no CPU device beside the others")
        return
    jobs = {(way,): partial(against_host, chosen[-1], way, host) for way in approximate()}
    found = {}
    for (way,), errors in together(jobs):
        found[way] = errors
        tell("against float64 on the host", found)


def together(jobs: dict[Any, Callable[[], Any]]) -> Iterator[tuple[Any, Any]]:
    """Results, in order; they compile at the same time, which takes most of theirs."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        started = {name: pool.submit(job) for name, job in jobs.items()}
        for name, each in started.items():
            yield name, each.result()


def against_truth(problem: Problem, setting: Setting, way: str) -> dict[str, Any]:
    """Relative errors of value and gradients, steps, and whether they are small enough."""
    solver, rule = exact(setting.tol)[way]
    most = 400 if way.startswith("picard") else 200
    value, gradients, steps = solved(problem, setting, solver, rule, setting.tol, most)
    errors = {
        "value": error(value, problem.value),
        "gradient of the matrix": error(gradients[0], problem.gradients[0]),
        "gradient of the offset": error(gradients[1], problem.gradients[1]),
    }
    # NaN is no small error
    right = None if setting.limit is None else all(e <= setting.limit for e in errors.values())
    return {**errors, "most steps": int(steps.max()), "right": right}


def against_host(problem: Problem, way: str, host: jax.Device) -> dict[str, float]:
    """Relative differences from the same rule after the same steps in float64."""

    def after_steps(setting: Setting):
        solver, rule = approximate()[way]
        return solved(problem, setting, solver, rule, 0.0, SAME_STEPS)[:2]

    value, gradients = after_steps(HIGHEST)
    with jax.default_device(host):
        there, gradients_there = after_steps(DOUBLE)
    return {
        "value": error(value, there),
        "gradient of the matrix": error(gradients[0], gradients_there[0]),
        "gradient of the offset": error(gradients[1], gradients_there[1]),
    }


def solved(problem: Problem, setting: Setting, solver, rule, tol: float, most: int):
    """Value (batch, n), gradients in matrix and offset, and steps (batch,), all on the host."""
    with jax.enable_x64(setting.dtype == "float64"):
        operands = [
            jnp.asarray(x, setting.dtype)
            for x in (problem.matrix, problem.offset, problem.cotangent)
        ]

        def loss(matrix, offset, cotangent):
            z0 = split(jnp.zeros_like(offset))
            found = dq.fixed_point(
                problem.f, z0, matrix, offset, solver=solver, adjoint=rule, tol=tol, max_steps=most
            )
            # of one leaf: what lies beyond it is zero in the cotangent
            seen = jnp.sum(found.value["left"] * split(cotangent)["left"])
            return seen, (joined(found.value), found.stats.steps)

        with jax.default_matmul_precision(setting.precision):
            program = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
            gradients, (value, steps) = program(*operands)
        return np.asarray(value), [np.asarray(g) for g in gradients], np.asarray(steps)


def error(found: Any, truth: Any) -> float:
    """||found - truth|| / ||truth|| in float64."""
    truth = np.asarray(truth, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - truth) / np.linalg.norm(truth))


def spoiled(problem: Problem) -> dict[str, Any]:
    """What a row of NaN does to the others: their largest difference, and the row's own status."""

    @jax.jit
    def solve(matrix, offset):
        z0 = split(jnp.zeros_like(offset))
        found = dq.fixed_point(problem.f, z0, matrix, offset, tol=1e-5, max_steps=60)
        return joined(found.value), found.stats.status

    matrix, offset = (jnp.asarray(x, jnp.float32) for x in (problem.matrix, problem.offset))
    with jax.default_matmul_precision("highest"):
        whole, _ = solve(matrix, offset)
        others, status = solve(matrix, offset.at[0].set(jnp.nan))
    difference = float(np.abs(np.asarray(whole)[1:] - np.asarray(others)[1:]).max())
    return {"difference of the others": difference, "its status": dq.Status(int(status[0])).name}


def penalty_and_radius(problem: Problem) -> dict[str, float]:
    """Relative errors of the Jacobian's estimates in float32.

    The penalty of a z is a^2 for probes of signs, to rounding, and its gradient 2 a; that of the
    problem is an estimate, with its standard error beside it.
    """
    slope, key = jnp.float32(0.7), jax.random.key(0)
    signs = partial(dq.jacobian_penalty, key=key, distribution="rademacher")
    ones = jnp.ones((4, 64), jnp.float32)

    def scaled(slope):
        return signs(lambda z, a: a * z, ones, slope)

    exact_value, gradient = jax.jit(jax.value_and_grad(scaled))(slope)
    operands = [
        jnp.asarray(x, jnp.float32) for x in (problem.value, problem.matrix, problem.offset)
    ]

    @jax.jit
    def spectrum(value, matrix, offset):
        z = split(value)
        samples = 32
        penalty = dq.jacobian_penalty(problem.f, z, matrix, offset, key=key, samples=samples)
        # the linear map at zero: its radius is the matrix's
        at = split(jnp.zeros_like(value))
        flat = jnp.zeros_like(offset)
        return penalty, dq.spectral_radius(problem.f, at, matrix, flat, key=key)

    with jax.default_matmul_precision("highest"):
        penalty, radii = spectrum(*operands)
    slopes = 1 - problem.value**2 if problem.name == "tanh" else np.ones_like(problem.value)
    truth = float(np.mean((slopes**2) @ (problem.matrix**2)) * 1.0)
    return {
        "penalty of a z": abs(float(exact_value) / 0.49 - 1),
        "its gradient": abs(float(gradient) / 1.4 - 1),
        "penalty of the problem, an estimate": abs(float(penalty) / truth - 1),
        "spectral radius": float(np.abs(np.asarray(radii) / RADIUS - 1).max()),
    }


def _host() -> jax.Device | None:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None
