"""Contenders on a cell: tuned to the same residual, counted, timed; and our solver over bare f."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

import deqjax
from cells import Cell
from contenders import HISTORY, OURS, Contender
from runners import Runner, bare_loop, runner
from timing import interleaved, milliseconds, ratio

REFERENCE = "deqjax anderson"
# the residual is measured by another compilation of f than the solver's own
ROUNDING = 1.01
Row = dict[str, Any]


def residual(cell: Cell, z: Any) -> float:
    """||f(z) - z|| / ||f(z)|| of the worst sample, over all leaves, summed in float64."""

    def flat(state: Any) -> np.ndarray:
        leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(state)]
        return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)

    fz = flat(cell.f(z, cell.weights, cell.inputs))
    return float(np.max(np.linalg.norm(fz - flat(z), axis=1) / np.linalg.norm(fz, axis=1)))


def loosest_tolerance(reached: Callable[[float], float], goal: float, trials: int = 9) -> float:
    """The largest tolerance with ``reached(tol) <= goal``, within a quarter, by bisection.

    ``reached`` is the residual at a solver's own tolerance. Returns the smallest one tried if none
    was small enough.
    """
    tol, good, bad, seen = goal, 0.0, math.inf, []
    for _ in range(trials):
        found = reached(tol)
        seen.append(found)
        if found <= goal * ROUNDING:
            good = max(good, tol)
        else:
            bad = min(bad, tol)
        if bad <= 1.25 * good or (not good and len(set(seen[-3:])) < len(seen[-3:]) - 1):
            break  # close enough, or out of steps whatever the tolerance
        if good and bad < math.inf:
            tol = math.sqrt(good * bad)
        elif math.isfinite(found) and found > 0 and len(seen) == 1:
            tol *= min(max(goal / found, 1e-3), 1e3)  # the criteria differ by a factor
        else:
            tol *= 3 if good else 1 / 3
    return good or bad


def compare(cell: Cell, contenders: Sequence[Contender], repeats: int) -> list[Row]:
    """Tune, count and time every contender on a cell."""
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for contender in contenders:
        ready: Runner = runner(contender, cell)
        tuned = contender.package != OURS

        def reached(tol: float, ready: Runner = ready) -> float:
            return residual(cell, ready.value(tol))

        tol = loosest_tolerance(reached, cell.tol) if tuned else cell.tol
        found = reached(tol)
        row = {
            "cell": cell.name,
            "contender": contender.name,
            "package": contender.package,
            "evaluations": ready.evaluations(tol),
            "last_only_checks": contender.checks,
            "residual": found,
            "reached": found <= cell.tol * ROUNDING,
            "goal": cell.tol,
            "own_tolerance": tol,
            "tuned": tuned,
            "repeats": repeats,
        }
        rows.append(row)
        runs[contender.name] = partial(ready.run, tol)
        runs[f"{contender.name}: bare"] = partial(ready.bare, row["evaluations"])
        print(f"{cell.name}: {contender.name} ready", flush=True)
    seconds = interleaved(runs, repeats)
    for row in rows:
        own = seconds[row["contender"]]
        row["time_ms"] = milliseconds(own)
        row["over_bare"] = ratio(own, seconds[f"{row['contender']}: bare"])
        row["over_ours"] = ratio(own, seconds[REFERENCE])
    return rows


def overhead(cell: Cell, steps: int, repeats: int) -> Row:
    """Time of an Anderson solve that takes all its steps, over as many bare evaluations."""
    solver = partial(deqjax.solvers.anderson, history=HISTORY)

    @jax.jit
    def solve(weights, inputs, z):
        return deqjax.fixed_point(
            cell.f, z, weights, inputs, solver=solver, tol=0.0, max_steps=steps
        )

    problem = (cell.weights, cell.inputs, cell.z0)
    stats = solve(*problem).stats
    # a sample that hits residual 0 would end the solve early
    if int(stats.evaluations) != steps + 1:
        raise ValueError(f"{cell.name}: {int(stats.evaluations)} evaluations, not {steps + 1}.")
    seconds = interleaved(
        {
            "solve": partial(solve, *problem),
            "bare": partial(bare_loop, cell.f, *problem, steps + 1),
        },
        repeats,
    )
    return {
        "cell": cell.name,
        "evaluations": steps + 1,
        "solve_ms": milliseconds(seconds["solve"]),
        "bare_ms": milliseconds(seconds["bare"]),
        "ratio": ratio(seconds["solve"], seconds["bare"]),
        "residual": float(stats.residual.max()),
        "repeats": repeats,
    }
