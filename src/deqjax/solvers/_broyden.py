"""Broyden's good method, with a limited-memory inverse for each sample."""

from functools import partial
from typing import Any, Unpack

from deqjax._core.residual import measure
from deqjax._core.solution import Solution
from deqjax._core.types import Map, Scalar, State
from deqjax._core.validate import check_count
from deqjax.solvers import _broyden_full_steps as full_steps
from deqjax.solvers import _broyden_line_search as searched_steps
from deqjax.solvers._broyden_estimate import forget, outgrown
from deqjax.solvers._forgiving import measure_forgiving, report_truly
from deqjax.solvers._loop import LoopOptions, iterate


def broyden(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    rank: int = 10,
    line_search: bool = False,
    damping: Scalar = 1.0,
    keep_memory: bool = False,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by Broyden's good method of limited memory.

    With g_k = f(z_k) - z_k and an estimate H_k of (I - J)^-1, J = df/dz, that starts at I,

        z_(k+1) = z_k + damping H_k g_k,    s = z_(k+1) - z_k,    y = g_k - g_(k+1),
        H_(k+1) = H_k + (s - H_k y) (s^T H_k) / (s^T H_k y)

    (Broyden, Math. Comp. 1965; Kelley, Solving Nonlinear Equations with Newton's Method, 2003,
    chapter 4), so that H_(k+1) y = s: the newest secant condition holds exactly. The estimate is
    that of the last ``rank`` updates alone: the oldest pair is dropped before the newest enters.
    It is applied in the compact form of Byrd, Nocedal & Schnabel (Math. Program. 1994, section 6),

        H = I - F M^-1 S^T,    M_ij = s_i^T (f_j - s_j), or s_i^T f_j where pair i is newer than j,

    with F = S - Y the changes of f: a sum of rank-one updates of H (Bai, Kolter & Koltun, NeurIPS
    2019) cannot forget its first without spoiling those built on it, and then diverges. M^-1 is
    kept, and has one index exchanged a step. A pair that would make M singular to rounding, or a
    step of zero, teaches nothing; the oldest pair is dropped all the same.

    A sample whose ||g|| exceeds 1000 times the smallest that it has had, or whose M^-1 has outgrown
    the digits of its numbers, goes back to that iterate, halves c in H = c I, with which it starts
    again (c is 1 at first: a map that contracts is left its own step), and keeps the one pair that
    leads from there to the runaway. This costs nothing where it does not happen, and Broyden's
    method climbs a hundredfold on its way to many roots: smaller factors, or a c taken from the
    pair, lost more problems than they won (of the figures in
    ``experiments/results/robustness.json``).

    ``line_search`` demands ||g(z_k + t p)|| <= (1 - 1e-4 t) ||g_k|| of a step p = H_k g_k, halving
    t up to five times (Armijo's rule; the shortest step is taken in any case). A trial point where
    f is not finite is halved likewise. f is evaluated once a pass whether or not a sample
    backtracks, so each backtrack counts as one step and samples proceed at their own pace. It helps
    where full steps run away. Where they do not, Broyden's method lets the residual rise on its
    way, and the search costs two to ten times the steps.

    Memory: 2 rank + 6 times |z| (4 with ``line_search``). Cost per step: one evaluation of f, about
    4 rank |z| multiply-adds and an update of a rank x rank matrix. For linear f of n dimensions
    with ``rank`` >= 2 n it ends after 2 n steps (Gay, SIAM J. Numer. Anal. 1979), whatever the
    radius, unless it restarts.
    With fewer pairs it takes about as many steps as Anderson with as long a history, some more
    where the radius comes close to 1; there fewer than 8 pairs slow it down noticeably.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        rank: number of pairs kept, static.
        line_search: whether to shorten steps that do not reduce ||g||.
        damping: length t of a full step, in (0, 1]; 1 is undamped; may be traced.
        keep_memory: hand the estimate out as ``Solution.memory``, a
            [`deqjax.solvers.LowRankInverse`][], as SHINE needs it.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample.

    Raises:
        ValueError, TypeError: a malformed problem, before anything is compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import broyden
        >>> solution = broyden(lambda z: 0.9 * z + 1, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
        >>> print(solution.value[0].round(2), solution.stats.steps)
        [10. 10. 10.] [2 2]
    """
    check_count("rank", rank)
    rank = int(rank)  # a shape: 6.0 is a count too
    method: Any = searched_steps if line_search else full_steps
    told = {"damping": damping} if line_search else {"damping": damping, "keep": keep_memory}
    solution, memory = iterate(
        f,
        z0,
        init=partial(method.init, rank=rank),
        step=partial(method.step, **told),
        tol=tol,
        max_steps=max_steps,
        measure=measure_forgiving if line_search else measure,
        **options,
    )
    if line_search:
        solution = solution._replace(stats=report_truly(solution.stats))
    if not keep_memory:
        return solution
    return solution._replace(
        memory=forget(memory.inverse, outgrown(memory.inverse, memory.largest))
    )
