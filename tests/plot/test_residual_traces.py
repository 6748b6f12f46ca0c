import jax.numpy as jnp
import numpy as np
import pytest
from drawn import is_cut_off, legend, rendered

from deqjax import plot, solvers
from deqjax.solvers import Status, picard

RATES = jnp.array([[0.1], [0.5], [0.8]])


def solve(rates=RATES, **options):
    return solvers.picard(lambda z: rates * z + 1, jnp.zeros((3, 1)), **options).stats


def line(stats):
    [axes] = plot.residual_traces({"Picard": stats}).axes
    return axes.lines[0].get_xdata(), axes.lines[0].get_ydata()


def test_line_is_the_median_of_the_samples():
    stats = solve(tol=0.0, max_steps=6, trace=6)
    steps, values = line(stats)
    np.testing.assert_array_equal(steps, range(6))
    np.testing.assert_allclose(values, np.median(stats.trace, axis=1), rtol=1e-6)


def test_converged_samples_stay_at_their_last_residual():
    stats = solve(tol=1e-3, max_steps=60, trace=60)
    assert set(stats.status.tolist()) == {Status.CONVERGED}
    steps, values = line(stats)
    assert steps[-1] == max(stats.steps)
    np.testing.assert_allclose(values[-1], np.median(stats.residual), rtol=1e-6)


def test_band_reaches_from_the_smallest_to_the_largest():
    stats = solve(tol=0.0, max_steps=6, trace=6)
    [axes] = plot.residual_traces({"Picard": stats}).axes
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(heights.min(), np.min(stats.trace), rtol=1e-6)
    np.testing.assert_allclose(heights.max(), np.max(stats.trace), rtol=1e-6)


def test_diverged_sample_ends_with_a_cross():
    stats = solve(jnp.array([[0.1], [0.5], [1e9]]), tol=1e-6, max_steps=60, trace=60)
    assert stats.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.DIVERGED]
    [axes] = plot.residual_traces({"Picard": stats}).axes
    [cross] = [one for one in axes.lines if one.get_marker() == "x"]
    last = np.flatnonzero(np.isfinite(stats.trace[:, 2]))[-1]
    assert cross.get_xdata().tolist() == [last]


def test_a_bare_trace_is_drawn_as_it_is():
    trace = np.array([[1.0, 1.0], [0.1, np.nan]])
    _, values = line(trace)
    np.testing.assert_allclose(values, [1.0, 0.1])


def test_axes_and_tolerance():
    found = {"Picard": solve(tol=1e-3, max_steps=60, trace=60), "other": np.array([[1.0], [0.5]])}
    figure = plot.residual_traces(found, tol=1e-3, title="one map")
    [axes] = figure.axes
    assert legend(axes) == ["Picard", "other", "tolerance"]
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "solver steps"
    assert "relative residual" in axes.get_ylabel()
    assert not is_cut_off(figure)


def test_a_solve_without_trace_is_refused():
    with pytest.raises(ValueError, match="the solve 'Picard' kept no trace; give its solver"):
        plot.residual_traces({"Picard": solve(tol=1e-3, max_steps=5)})


def test_a_trace_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must have the shape \(rows, batch\), got \(3,\)"):
        plot.residual_traces({"Picard": np.ones(3)})


def test_the_median_is_never_that_of_the_converged_samples_alone():
    rates = jnp.array([[0.1], [0.999], [0.999]])
    short, long = (solve(rates, tol=1e-3, max_steps=20, trace=rows) for rows in (20, 21))
    steps, values = line(short)
    assert steps[-1] == 19  # what came after the last step was not recorded
    np.testing.assert_allclose(values, line(long)[1][:20], rtol=1e-6)
    assert values[-1] > 0.01


def test_a_short_trace_shows_the_beginning():
    steps, values = line(solve(tol=1e-6, max_steps=60, trace=5))
    assert steps[-1] == 4
    assert values[-1] > 1e-3


def test_a_median_of_diverged_samples_is_not_drawn():
    stats = solve(jnp.array([[0.1], [1e9], [1e9]]), tol=1e-6, max_steps=60, trace=61)
    assert stats.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.DIVERGED]
    steps, _ = line(stats)
    assert steps[-1] == np.flatnonzero(np.isfinite(stats.trace[:, 1]))[-1]


@pytest.mark.parametrize(
    "trace", [np.zeros((3, 2)), np.full((3, 2), np.nan), np.zeros((0, 2))], ids=["0", "nan", "none"]
)
def test_nothing_to_draw_is_said(trace):
    figure = plot.residual_traces({"Picard": trace})
    assert [text.get_text() for text in figure.axes[0].texts] == ["no data"]
    assert not is_cut_off(figure)


def test_solves_that_never_began_are_drawn():
    stats = picard(lambda z: z * jnp.nan, jnp.ones((2, 3)), tol=1e-4, max_steps=9, trace=10).stats
    assert rendered(plot.residual_traces({"Picard": stats}, tol=1e-4))


def test_a_solution_is_drawn_as_its_stats():
    solution = picard(lambda z: 0.5 * z + 1, jnp.zeros((2, 1)), tol=1e-3, max_steps=20, trace=21)
    for one, other in zip(line(solution), line(solution.stats), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_solve_without_its_name_is_refused():
    solution = picard(lambda z: 0.5 * z + 1, jnp.zeros((2, 1)), tol=1e-3, max_steps=20, trace=21)
    with pytest.raises(TypeError, match="traces is a Solution: give solves by name"):
        plot.residual_traces(solution)
