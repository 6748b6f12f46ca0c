import jax.numpy as jnp
import numpy as np
import pytest
from drawn import is_cut_off, legend, rendered

from deqjax import plot
from deqjax.solvers import picard

STARTS = np.array([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [-4.0, -2.0, 0.0]])
PATHS = np.stack([STARTS * 0.5**step for step in range(5)])


def paths(figure):
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(PATHS)]
    return np.stack([line.get_xydata() for line in lines], axis=1)


def test_a_plane_is_drawn_without_distortion():
    drawn = paths(plot.trajectories(PATHS))
    # the states lie in a plane, so distances between any two of them are kept
    given = np.linalg.norm(PATHS[:, :, None] - PATHS[:, None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(drawn[:, :, None] - drawn[:, None], axis=-1), given, atol=1e-12
    )


def test_axes_say_how_much_they_show():
    figure = plot.trajectories(PATHS, title="paths")
    [axes] = figure.axes
    flat = PATHS.reshape(-1, 3) - PATHS.reshape(-1, 3).mean(axis=0)
    values = np.sort(np.linalg.eigvalsh(flat.T @ flat))[::-1]
    first, second = (f"{share:.0%}" for share in values[:2] / values.sum())
    assert axes.get_xlabel() == f"first principal component ({first} of the variance)"
    assert axes.get_ylabel() == f"second principal component ({second})"
    assert legend(axes) == ["start", "end"]
    assert not is_cut_off(figure)


def test_leaves_of_a_state_are_one_vector():
    state = {"high": jnp.asarray(PATHS[:, :, :1]), "low": jnp.asarray(PATHS[:, :, None, 1:])}
    np.testing.assert_allclose(
        np.abs(paths(plot.trajectories(state))), np.abs(paths(plot.trajectories(PATHS))), atol=1e-5
    )


def test_samples_that_stand_still_can_be_drawn():
    assert rendered(plot.trajectories(np.ones((3, 2, 4))))


def test_more_features_than_states_make_the_same_picture():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 3)))[0]
    wide = paths(plot.trajectories(PATHS @ basis.T))
    np.testing.assert_allclose(np.abs(wide), np.abs(paths(plot.trajectories(PATHS))), atol=1e-7)


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (np.ones(3), "leaves of the shape"),
        ({"a": np.ones((3, 2, 1)), "b": np.ones((4, 2, 1))}, "differ in steps and batch"),
        (np.ones((1, 2, 3)), "at least two steps"),
        (np.ones((3, 2, 1)), "at least two features"),
        (np.ones((3, 0, 4)), "got 3 steps of 0 samples"),
        (np.full((3, 2, 2), np.nan), "not finite"),
    ],
)
def test_what_has_no_picture_is_refused(states, sentence):
    with pytest.raises(ValueError, match=sentence):
        plot.trajectories(states)


def test_a_solution_is_drawn_by_its_trajectory():
    solution = picard(
        lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=0.0, max_steps=4, trajectory=(1, 2, 4)
    )
    for one, other in zip(
        plot.trajectories(solution).axes[0].lines,
        plot.trajectories(solution.trajectory).axes[0].lines,
        strict=True,
    ):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_a_solution_without_a_trajectory_is_refused():
    solution = picard(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=0.1, max_steps=4)
    with pytest.raises(ValueError, match="the solution has no trajectory: give its solver"):
        plot.trajectories(solution)
