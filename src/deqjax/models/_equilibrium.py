"""An equilibrium that a model solved, and the one place where a model's layer is solved."""

from typing import NamedTuple, TypedDict, Unpack

from deqjax._core.types import Map, Operands, Scalar, State
from deqjax.adjoints import BackwardStats
from deqjax.nn import DEQ
from deqjax.solvers import Solution


class Equilibrium(NamedTuple):
    """What an equilibrium model solved: enough to penalize or to inspect the Jacobian there.

    Attributes:
        f: the map ``f(z, u)`` with this call's dropout masks.
        u: everything that f needs and that does not depend on z.
        solution: the fixed point and how it was found.
    """

    f: Map
    u: Operands
    solution: Solution


class Unrolled(NamedTuple):
    """Where some applications of a layer led: what the warm-up stage has for an equilibrium.

    Attributes:
        f: the map ``f(z, u)`` with this call's dropout masks.
        u: everything that f needs and that does not depend on z.
        value: z after the applications.
    """

    f: Map
    u: Operands
    value: State


class SolveOptions(TypedDict):
    """What a call of a model passes on to the solve of its layer."""

    probe: BackwardStats | None
    tol: Scalar | None
    max_steps: Scalar | None


def solved(deq: DEQ, u: Operands, z: State, **options: Unpack[SolveOptions]) -> Equilibrium:
    """Solve a layer from z."""
    f = deq.freeze(u, z)
    return Equilibrium(f, u, deq(u, z0=z, f=f, **options))


def iterate(
    deq: DEQ, u: Operands, z: State, *, layers: int | None, **options: Unpack[SolveOptions]
) -> tuple[State, Equilibrium | Unrolled]:
    """Solve a layer from z, or apply its cell ``layers`` times (the published warm-up stage)."""
    if layers is None:
        equilibrium = solved(deq, u, z, **options)
        return equilibrium.solution.value, equilibrium
    f = deq.freeze(u, z)
    for _ in range(layers):
        z = f(z, u)
    return z, Unrolled(f, u, z)
