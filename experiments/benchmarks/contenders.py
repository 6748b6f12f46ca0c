"""Our solvers and those of other packages behind one signature.

A JAX contender is ``solve(f, weights, inputs, z0, tol) -> z`` and is compiled as a whole. Histories
are the same: six differences here, which the peers call seven stored iterates. Packages that are
not installed are left out, with the reason.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax

import deqjax
from timing import threads

HISTORY = 6
MAX_STEPS = 150
OURS = "deqjax"


class Contender(NamedTuple):
    """One solver.

    Attributes:
        package: whose it is.
        method: what it is called in the tables.
        solve: ``solve(f, weights, inputs, z0, tol) -> z``; for TorchDEQ ``solve(f, z0, tol)``.
        checks: its last evaluation of f is at the z that it returns, whose residual it so knows.
        fixed_tol: the tolerance is a constant of the compiled program.
    """

    package: str
    method: str
    solve: Callable[..., Any]
    checks: bool = False
    fixed_tol: bool = False

    @property
    def name(self) -> str:
        """Package and method."""
        return f"{self.package} {self.method}"


def available(
    packages: Sequence[str] | None = None, max_steps: int = MAX_STEPS
) -> tuple[list[Contender], dict[str, str]]:
    """Our solvers and the chosen peers' (None: all), and why some peers are missing."""
    found, missing = ours(max_steps), {}
    for package in PEERS if packages is None else packages:
        try:
            found += PEERS[package](max_steps)
        except ImportError as error:
            missing[package] = str(error)
    return found, missing


def ours(max_steps: int) -> list[Contender]:
    """This library's solvers."""

    def contender(method: str, name: str, **options: Any) -> Contender:
        solver = partial(getattr(deqjax.solvers, name), **options)

        def solve(f, weights, inputs, z0, tol):
            solution = deqjax.fixed_point(
                f, z0, weights, inputs, solver=solver, tol=tol, max_steps=max_steps
            )
            return solution.value

        return Contender(OURS, method, solve, checks="returns" not in options)

    return [
        contender("anderson", "anderson", history=HISTORY),
        contender("anderson image", "anderson", history=HISTORY, returns="image"),
        *(contender(name, name) for name in ("picard", "broyden", "newton_krylov")),
    ]


def jaxopt(max_steps: int) -> list[Contender]:
    """JAXopt's Anderson on the batch as one system, and mapped over samples as its DEQ recipe."""
    package = load("jaxopt")

    def solver(f, tol):
        return package.AndersonAcceleration(
            f, history_size=HISTORY + 1, tol=tol, maxiter=max_steps, ridge=1e-5
        )

    def whole(f, weights, inputs, z0, tol):
        return solver(f, tol).run(z0, weights, inputs).params

    def mapped(f, weights, inputs, z0, tol):
        def of_one_sample(z, inputs):
            batch_of_one = partial(jax.tree.map, lambda x: x[None])
            z, inputs = batch_of_one(z), batch_of_one(inputs)
            return jax.tree.map(lambda x: x[0], whole(f, weights, inputs, z, tol))

        return jax.vmap(of_one_sample)(z0, inputs)

    return [
        Contender("jaxopt", "anderson", whole),
        Contender("jaxopt", "anderson vmapped", mapped),
    ]


def optimistix(max_steps: int) -> list[Contender]:
    """Optimistix's fixed-point iteration, and its Newton with lineax's GMRES."""
    package, lineax = load("optimistix"), load("lineax")

    def solve(f, weights, inputs, z0, tol, *, method):
        return package.fixed_point(
            lambda z, args: f(z, *args),
            method(tol),
            z0,
            (weights, inputs),
            max_steps=max_steps,
            throw=False,
        ).value

    def newton(tol):
        inner = lineax.GMRES(rtol=0.1, atol=0.1 * tol)
        return package.Newton(rtol=tol, atol=tol, linear_solver=inner)

    def iteration(tol):
        return package.FixedPointIteration(rtol=tol, atol=tol)

    return [
        Contender("optimistix", "fixed point", partial(solve, method=iteration)),
        Contender("optimistix", "newton gmres", partial(solve, method=newton)),
    ]


def banax(max_steps: int) -> list[Contender]:
    """Banax's solvers, on the batch as one system."""
    load("banax")
    adjoint, solver = load("banax.adjoint"), load("banax.solver")

    def solve(f, weights, inputs, z0, tol, *, method):
        # the rule for the gradient does not matter: none is taken
        rule = adjoint.JFB(method(rtol=tol, max_steps=max_steps))
        return rule((f, (weights, inputs)), z0).value

    methods = {
        "anderson": partial(solver.Anderson, depth=HISTORY + 1),
        "broyden": partial(solver.Broyden, history_size=30),
        "picard": solver.Picard,
    }
    return [
        Contender("banax", name, partial(solve, method=method), checks=True, fixed_tol=True)
        for name, method in methods.items()
    ]


def torchdeq(max_steps: int) -> list[Contender]:
    """TorchDEQ's Anderson, without gradients."""
    torch, solvers = load("torch"), load("torchdeq.solver")
    if jax.default_backend() != "cpu" and not torch.cuda.is_available():
        raise ImportError(f"JAX computes on {jax.default_backend()}, this torch on the CPU only")
    torch.set_num_threads(threads())
    anderson = solvers.get_solver("anderson")

    def solve(f, z0, tol):
        return anderson(
            f, z0, max_iter=max_steps, tol=tol, stop_mode="rel", m=HISTORY + 1, lam=1e-5
        )[0]

    return [Contender("torchdeq", "anderson", solve)]


PEERS: dict[str, Callable[[int], list[Contender]]] = {
    "jaxopt": jaxopt,
    "optimistix": optimistix,
    "banax": banax,
    "torchdeq": torchdeq,
}


def load(name: str) -> ModuleType:
    """Import a module that may not be installed."""
    return importlib.import_module(name)
