"""The one `custom_vjp` that the rules share.

The forward pass is any solver. The backward pass is a function from what the forward pass kept and
the cotangent of its result to the cotangent of the operands; a rule is such a function.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.hoist import PureMap
from deqjax._core.types import Operands, Scalar, State
from deqjax.adjoints._forward import keep_memory, solve_forward
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution


class Adjoint(Protocol):
    """A rule for gradients: solves z = f(z, operands) and says how the result differentiates.

    ``f(z, operands) -> z'`` closes over no array: ``operands`` is a pytree with the leaves of args
    and all that the user's f closed over, integers and keys too. A rule of your own solves by
    [`solve_forward`][deqjax.adjoints.solve_forward], or calls the solver itself, and is a function
    or a frozen dataclass: equal rules then share what was compiled for them. Where f sees the
    step's number (``numbered=True``), ``f.at_end(operands, solution)`` are the operands of the last
    evaluation, and ``f.at_step(operands, step)`` those of any other; otherwise both are
    ``operands``.
    """

    def __call__(
        self,
        f: PureMap,
        z0: State,
        operands: Operands,
        *,
        solver: Callable[..., Solution],
        tol: Scalar,
        max_steps: Scalar,
        probe: BackwardStats | None,
    ) -> Solution:
        """Return the solution, differentiable in the operands."""


class Kept(NamedTuple):
    """What the backward pass starts from; its size does not depend on the number of steps."""

    z0: State
    solution: Solution
    controls: Any  # the rule's own run-time numbers: tolerances, step limits


class Pulled(NamedTuple):
    """What a backward pass found."""

    operands: Operands  # cotangent of the floating-point operands
    report: BackwardStats
    z0: State | None = None  # None where the rule says that z* does not depend on its start


Continuous: TypeAlias = list[Any]
"""The floating-point operands."""

Backward: TypeAlias = Callable[
    [Callable[[State, Continuous], State], Kept, Continuous, Solution], Pulled
]
"""``backward(f, kept, continuous, cotangents) -> Pulled``, with ``f(z, continuous) -> z'``."""


@dataclasses.dataclass(frozen=True)
class WithBackward:
    """An adjoint that solves forward with any solver and differentiates as ``backward`` says."""

    backward: Backward
    controls: Any = ()  # numbers that may be traced; the backward pass finds them in `Kept`
    memory: type | None = None  # what it needs of the solver's own memory
    needs: str = ""  # the solver that keeps it

    def __call__(
        self,
        f: PureMap,
        z0: State,
        operands: Operands,
        *,
        solver: Callable[..., Solution],
        tol: Scalar,
        max_steps: Scalar,
        probe: BackwardStats | None,
    ) -> Solution:
        """Return the solution, differentiable in the operands."""
        if self.memory is not None:
            solver = functools.partial(keep_memory, solver, self.memory, self.needs)
        limits = (
            jnp.asarray(tol, algebra.accumulation_dtype(z0)),
            jnp.asarray(max_steps, jnp.int32),
        )
        return _solve(self.backward, f, z0, operands, solver, limits, self.controls, probe)


def split_operands(
    operands: Operands,
) -> tuple[Continuous, list[Any], Callable[[Continuous, list[Any]], Operands]]:
    """The floating-point operands, the others, and what joins two such lists again."""
    leaves, structure = jax.tree.flatten(operands)
    smooth = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

    def join(continuous: Continuous, discrete: list[Any]) -> Operands:
        values = {True: iter(continuous), False: iter(discrete)}
        return jax.tree.unflatten(structure, [next(values[kind]) for kind in smooth])

    continuous = [leaf for leaf, kind in zip(leaves, smooth, strict=True) if kind]
    discrete = [leaf for leaf, kind in zip(leaves, smooth, strict=True) if not kind]
    return continuous, discrete, join


def _solve(
    backward: Backward,
    f: PureMap,
    z0: State,
    operands: Operands,
    solver: Callable[..., Solution],
    limits: tuple[jax.Array, jax.Array],
    controls: Any,
    probe: BackwardStats | None,
) -> Solution:
    continuous, discrete, join = split_operands(operands)

    @jax.custom_vjp
    def solve(
        z0: State, continuous: Any, discrete: Any, limits: Any, controls: Any, probe: Any
    ) -> Solution:
        del controls, probe  # for the backward pass
        tol, max_steps = limits
        operands = join(continuous, discrete)
        return solve_forward(f, z0, operands, solver=solver, tol=tol, max_steps=max_steps)

    def remember(*inputs: Any) -> tuple[Solution, Any]:
        # through `solve` itself: a second derivative differentiates z* by the rule again
        solution = solve(*inputs)
        z0, continuous, discrete, _, controls, probe = inputs
        return solution, (Kept(z0, solution, controls), continuous, discrete, probe is not None)

    def pull_back(remembered: Any, cotangents: Solution) -> tuple[Any, ...]:
        kept, continuous, discrete, probed = remembered

        def at_end(z: State, continuous: Continuous) -> State:
            return f(z, f.at_end(join(continuous, discrete), kept.solution))

        pulled = backward(at_end, kept, continuous, cotangents)
        probe = jax.tree.map(lambda x: x.astype(jnp.float32), pulled.report) if probed else None
        # None is a zero cotangent
        return pulled.z0, pulled.operands, None, None, None, probe

    solve.defvjp(remember, pull_back)
    controls = jax.tree.map(jnp.asarray, controls)
    solution: Solution = solve(z0, continuous, discrete, limits, controls, probe)
    return solution._replace(stats=lax.stop_gradient(solution.stats), memory=None)


def at_each_point(
    solution: Solution,
    cotangents: Solution,
    pull_one: Callable[[State, State], tuple[Continuous, BackwardStats]],
) -> Pulled:
    """Pull back from each state that the solution shows: the value, then each row of a trajectory.

    ``pull_one(state, cotangent)`` returns the gradient in the continuous operands and a report.
    The gradients of all states add up.
    """
    found = [pull_one(*point) for point in _points(solution, cotangents)]
    gradients, reports = zip(*found, strict=True)
    return Pulled(jax.tree.map(lambda *g: algebra.total(g), *gradients), _merge(reports))


def _points(solution: Solution, cotangents: Solution) -> Iterator[tuple[State, State]]:
    """Each state that the solution shows, with its cotangent."""
    yield solution.value, cotangents.value
    if solution.trajectory is not None:
        for row in range(len(jax.tree.leaves(solution.trajectory)[0])):
            yield jax.tree.map(
                lambda leaf, row=row: leaf[row], (solution.trajectory, cotangents.trajectory)
            )


def _merge(reports: Sequence[BackwardStats]) -> BackwardStats:
    """One report for several backward solves of a sample: all steps, and the worst outcome."""
    steps, residuals, statuses = zip(*reports, strict=True)
    return BackwardStats(
        sum(steps[1:], start=steps[0]),
        jnp.max(jnp.stack(residuals), axis=0),
        jnp.max(jnp.stack(statuses), axis=0),
    )
