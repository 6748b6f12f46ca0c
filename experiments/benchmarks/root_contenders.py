"""Solvers of F(z) = 0 beside those of z = f(z): Optimistix, JAXopt and SciPy; options of ours."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import contenders
import deqjax
from contenders import OURS, Contender, load

BUDGET = 200
# the start is evaluated, too
MAX_STEPS = BUDGET - 1
# those without options first
OUR_ROWS = {
    "anderson": ("anderson", {}),
    "picard": ("picard", {}),
    "broyden": ("broyden", {}),
    "newton_krylov": ("newton_krylov", {}),
    "anderson, history 12": ("anderson", {"history": 12}),
    "anderson, damping 0.5": ("anderson", {"damping": 0.5}),
    "broyden, rank 30": ("broyden", {"rank": 30}),
    "broyden, line search": ("broyden", {"line_search": True}),
}
SCIPY = ("hybr", "lm", "broyden1", "broyden2", "anderson", "krylov", "df-sane", "diagbroyden")


class Entry(NamedTuple):
    """A contender of the table.

    Attributes:
        contender: ``solve`` as `takes` says.
        takes: "map": ``solve(f, args, (), z0, tol)``, f on a batch of one; "counted map": the same,
            and it returns its evaluations beside z; "root": ``solve(F, args, z0, tol)``; "host
            root": ``solve(F, z0, tol)`` on NumPy's arrays; "torch": ``solve(f, z0, tol)`` on
            PyTorch's.
    """

    contender: Contender
    takes: str


def entries() -> tuple[list[Entry], dict[str, str]]:
    """Everything that is installed, and why the rest is not there."""
    shared, missing = contenders.available(max_steps=MAX_STEPS)
    found = ours() + [
        Entry(each, "torch" if each.package == "torchdeq" else "map")
        for each in shared
        # on a batch of one, mapping over samples changes nothing
        if each.package != OURS and each.name != "jaxopt anderson vmapped"
    ]
    for name, peers in {"optimistix": optimistix, "jaxopt": jaxopt, "torchdeq": torchdeq}.items():
        if name not in missing:
            found += peers()
    return found + scipy(), missing


def ours() -> list[Entry]:
    """Our solvers, which report their evaluations (that these are exact is tested)."""

    def solve(f, args, empty, z0, tol, *, solver):
        found = deqjax.fixed_point(f, z0, args, empty, solver=solver, tol=tol, max_steps=MAX_STEPS)
        return found.value, found.stats.evaluations

    return [
        Entry(
            Contender(
                OURS,
                name,
                partial(solve, solver=partial(getattr(deqjax.solvers, solver), **options)),
            ),
            "counted map",
        )
        for name, (solver, options) in OUR_ROWS.items()
    ]


def optimistix() -> list[Entry]:
    """Newton with a dense Jacobian, the chord method, and trust regions on the sum of squares."""
    package = load("optimistix")

    def solve(residual, args, z0, tol, *, method):
        return package.root_find(
            residual, method(rtol=tol, atol=tol), z0, args, max_steps=MAX_STEPS, throw=False
        ).value

    methods = {
        "newton": package.Newton,
        "chord": package.Chord,
        "dogleg": package.Dogleg,
        "levenberg-marquardt": package.LevenbergMarquardt,
    }
    return [
        Entry(Contender("optimistix", name, partial(solve, method=method)), "root")
        for name, method in methods.items()
    ]


def jaxopt() -> list[Entry]:
    """JAXopt's Broyden, with its line search."""
    package = load("jaxopt")

    def broyden(residual, args, z0, tol):
        return package.Broyden(residual, tol=tol, maxiter=MAX_STEPS).run(z0, args).params

    return [Entry(Contender("jaxopt", "broyden", broyden), "root")]


def torchdeq() -> list[Entry]:
    """TorchDEQ's Broyden."""
    broyden = load("torchdeq.solver").get_solver("broyden")

    def solve(f, z0, tol):
        return broyden(f, z0, max_iter=MAX_STEPS, tol=tol, stop_mode="rel")[0]

    return [Entry(Contender("torchdeq", "broyden", solve), "torch")]


class OutOfBudgetError(Exception):
    """More evaluations than allowed."""


def scipy() -> list[Entry]:
    """``scipy.optimize.root`` with the Jacobian in differences, where the method needs one."""
    optimize = load("scipy.optimize")

    def solve(residual: Callable[[Any], Any], z0: Any, tol: float, *, method: str) -> Any:
        best, least, count = z0, np.inf, 0

        def watched(x):
            nonlocal best, least, count
            count += 1
            if count > BUDGET:
                raise OutOfBudgetError
            value = residual(x)
            if np.linalg.norm(value) < least:
                best, least = np.array(x), np.linalg.norm(value)
            return value

        # a solver of fixed step counts returns its best; these have no such limit, but this
        limits = (OutOfBudgetError, ValueError, ArithmeticError, np.linalg.LinAlgError)
        try:
            with warnings.catch_warnings(action="ignore"):
                return optimize.root(watched, z0, method=method, tol=tol).x
        except limits:
            return best

    return [
        Entry(Contender("scipy", method, partial(solve, method=method)), "host root")
        for method in SCIPY
    ]


def choose(found: Sequence[Entry], wanted: Sequence[str] | None) -> list[Entry]:
    """Those whose package or name ("deqjax anderson") is among the wanted ones; None: all."""
    if wanted is None:
        return list(found)
    chosen = [e for e in found if {e.contender.package, e.contender.name} & set(wanted)]
    known = {name for e in found for name in (e.contender.package, e.contender.name)}
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise SystemExit(f"no contender {unknown[0]!r}: choose from {', '.join(sorted(known))}.")
    return chosen
