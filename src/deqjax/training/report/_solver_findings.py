"""What can be wrong with the solves of a run: one rule for each, and its threshold."""

import math
from collections.abc import Iterator

from deqjax.training.report._figures import Figures
from deqjax.training.report._finding import Finding, Options, calmer, way

UNFINISHED = 0.25
"""Share of solves that stop at the step limit from which on it is a finding: with fewer the mean
residual, hence the error of output and gradient, is still about the tolerance."""

DIVERGED = 0.001
"""Share of solves that diverge (values infinite or NaN): one in a thousand samples is one in every
few batches."""

RADIUS = 1.0
"""Mean spectral radius from which on the layer no longer contracts near its equilibrium: plain
iteration leaves it, and (I - J)^-1 of the implicit gradient may be large."""

RESIDUAL_GROWTH = 2.0
"""Growth of the median residual over the run: beyond the factor that its noise has."""

STEPS_GROWTH = 1.3
"""Growth of the median number of steps, and with it of the time of a solve."""

PRECISION_LOST = 0.01
"""Share of reversible backward passes above their tolerance: their gradients are not exact."""


def forward_diverges(figures: Figures, options: Options) -> Iterator[Finding]:
    """Forward solves end with values that are not finite."""
    share = figures.late.get("forward_diverged", 0.0)
    if share >= DIVERGED:
        yield Finding(
            "forward-diverges",
            f"{share:.1%} of the forward solves diverge lately",
            "for these samples the layer is not at an equilibrium at all, and their gradients "
            "are of no use",
            calmer(figures, options),
        )


def backward_diverges(figures: Figures, options: Options) -> Iterator[Finding]:
    """Backward solves end with values that are not finite."""
    share, most = figures.late.get("backward_diverged", 0.0), figures.backward_diverged
    if share >= DIVERGED and most is not None:
        yield Finding(
            "backward-diverges",
            f"{share:.1%} of the backward solves diverge lately (at most {most.value:.1%}, at "
            f"step {most.step})",
            "the gradient of these samples is wrong, while the loss looks as always",
            f"{options.penalty}, {options.slower_learning}, or set "
            f"{options.of_solver('backward_method')} to gmres",
        )


def step_limit(figures: Figures, options: Options) -> Iterator[Finding]:
    """Forward solves end before their tolerance."""
    # with a random limit training solves stop early on purpose, those of validation do not
    random_limit = options.get("step_limit.distribution", "fixed") != "fixed"
    late = figures.late_validation if random_limit else figures.late
    if "forward_converged" not in late:
        return
    share = 1 - late["forward_converged"] - late.get("forward_diverged", 0.0)
    if share < UNFINISHED:
        return
    residual, tol = late.get("forward_residual", math.nan), _tolerance(figures, options)
    asked = "" if tol is None else f" where {tol:g} is asked for"
    of_steps = options.solver("adjoint") in ("reversible", "unrolled", "phantom", "truncated")
    if of_steps and tol == 0:
        return  # so many steps are what is asked for
    yield Finding(
        "step-limit",
        f"{share:.0%} of the forward solves stop at the step limit before the tolerance, at a "
        f"residual of {residual:.1e}{asked}",
        "what they return is not the equilibrium"
        + (
            "; the gradient is that of the steps taken, but other limits will score differently"
            if of_steps
            else ", and the gradient, which assumes it, is off by about the residual, by more the "
            "closer the spectral radius is to 1"
        ),
        f"raise {options.of_solver('max_steps')} or {options.now('penalty.weight')}, or make "
        f"{options.of_solver('tol')} coarser",
    )


def backward_step_limit(figures: Figures, options: Options) -> Iterator[Finding]:
    """Backward solves of the implicit adjoint end before their tolerance."""
    if options.solver("adjoint") not in ("implicit", None):
        return
    late = figures.late
    share = 1 - late.get("backward_converged", 1.0) - late.get("backward_diverged", 0.0)
    if share >= UNFINISHED:
        residual, tol = late.get("backward_residual", math.nan), options.tolerance("backward_tol")
        asked = "" if tol is None else f" where {tol:g} is asked for"
        yield Finding(
            "backward-step-limit",
            f"{share:.0%} of the backward solves stop at the step limit before the tolerance, at "
            f"a residual of {residual:.1e}{asked}",
            "the gradient is biased by about that residual",
            f"raise {options.of_solver('backward_max_steps')} or {options.now('penalty.weight')}, "
            f"or make {options.of_solver('backward_tol')} coarser",
        )


def precision_lost(figures: Figures, options: Options) -> Iterator[Finding]:
    """The reversible adjoint does not come back to where the solve began."""
    if options.solver("adjoint") != "reversible":
        return
    lost = 1 - figures.late.get("backward_converged", 1.0)
    if lost >= PRECISION_LOST:
        residual, tol = figures.late.get("backward_residual"), options.tolerance("backward_tol")
        residual = math.nan if residual is None else residual
        asked = "that of the dtype" if tol is None else tol
        yield Finding(
            "precision-lost",
            f"{lost:.0%} of the reversible backward passes miss their tolerance "
            f"({residual:.1e}, asked for is {asked})",
            "undoing the steps enlarged rounding errors, so that the gradient is inexact",
            f"lower {options.of_solver('max_steps')} or {options.of_solver('damping')}, or set "
            f"{options.of_solver('adjoint')} to implicit",
        )


def residual_grows(figures: Figures, options: Options) -> Iterator[Finding]:
    """Forward solves become less accurate."""
    trend, tol = figures.trends.get("forward_residual"), _tolerance(figures, options)
    if trend is not None and trend.growth >= RESIDUAL_GROWTH and trend.late > (tol or 0.0):
        yield Finding(
            "residual-grows",
            f"the forward residual grows: {way(trend, '.1e')}",
            "the layer contracts less and less; untreated, this ends in solves that fail",
            f"{options.penalty}, raise {options.of_solver('max_steps')}, or "
            f"{options.slower_learning}",
        )


def steps_grow(figures: Figures, options: Options) -> Iterator[Finding]:
    """Solves become more costly."""
    for direction in ("forward", "backward"):
        trend = figures.trends.get(f"{direction}_steps")
        if trend is not None and trend.growth >= STEPS_GROWTH:
            yield Finding(
                f"{direction}-steps-grow",
                f"a {direction} solve takes more and more steps: {way(trend, '.1f')}",
                "each training step costs more, and the step limit comes closer",
                options.penalty,
            )


def no_contraction(figures: Figures, options: Options) -> Iterator[Finding]:
    """The Jacobian at the equilibrium is too large."""
    last = figures.validation
    radius = math.nan if last is None else last.values.get("spectral_radius", math.nan)
    if radius >= RADIUS:
        yield Finding(
            "no-contraction",
            f"the mean spectral radius of the Jacobian is {radius:.2f}, at 1 or above",
            "near its equilibrium the layer does not contract: an accelerated solver may still "
            "find it, in more steps, and gradients become large and ill-conditioned",
            options.penalty,
        )


def _tolerance(figures: Figures, options: Options) -> float | None:
    """What forward solves are asked for; None if nothing tells."""
    set_ = options.tolerance("tol")
    return figures.late_validation.get("tolerance") if set_ is None else set_


OF_ONE_RECORD = (
    forward_diverges,
    backward_diverges,
    step_limit,
    backward_step_limit,
    precision_lost,
)
"""Rules that need no more than the last record."""
