"""Printed, results say how the samples did; inside of a transform, what is known there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.solvers import Solution, Stats, picard


def stats(status, steps=(3, 5, 7, 9), residual=(1e-4, 1e-3, 0.5, 2.0)):
    return Stats(
        np.array(steps), np.array(residual), np.array(status), np.array(10, np.int32), None
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ([1, 1, 1, 1], "4 samples: all converged, 6 steps (at most 9), residual at most 2.0e+00"),
        ([1, 3, 2, 3], "4 samples: 2 diverged (1, 3), 1 at the step limit (2), 1 converged, "),
        ([2, 2, 2, 2], "4 samples: all at the step limit, "),
    ],
)
def test_a_summary_names_failures_first(status, words):
    assert stats(status).summary().startswith(words)


def test_one_sample_is_not_all():
    assert stats([1], [2], [0.25]).summary().startswith("1 sample: converged, 2 steps")


def test_of_many_failures_the_first_are_named():
    text = stats([3] * 9 + [1], np.arange(10), np.arange(10)).summary()
    assert "9 diverged (0, 1, 2, 3, 4, ...), 1 converged" in text


def test_samples_of_several_devices_are_taken_together():
    folded = jax.tree.map(lambda x: x.reshape(2, 2) if x.ndim else x, stats([1, 1, 3, 1]))
    assert folded.summary() == stats([1, 1, 3, 1]).summary()


def test_a_solution_prints_in_a_few_words():
    solution = dq.fixed_point(lambda z: 0.5 * z + 1, jnp.zeros((256, 64)))
    text = repr(solution)
    assert text.startswith("Solution(stats: 256 samples: all converged, ")
    assert text.endswith("; value: float32[256,64])")
    assert "<td" in solution._repr_html_()


def test_inside_of_a_transform_shapes_are_printed():
    said = []

    @jax.jit
    def solve(z0):
        solution = picard(lambda z: {"a": 0.5 * z["a"] + 1}, {"a": z0}, tol=1e-3, max_steps=3)
        said.extend([repr(solution), solution._repr_html_()])
        return solution.value["a"]

    solve(jnp.zeros((2, 3)))
    assert "steps int32[2], residual float32[2], status int32[2]" in said[0]
    assert "value: {'a': float32[2,3]}" in said[0]
    assert "int32[2]" in said[1]


def test_what_is_no_array_is_printed_as_it_is():
    # as specifications for vmap's axes are
    assert "value: 0" in repr(Solution(0, Stats(0, 0, 0, None, None)))
    assert "status 0" in repr(Stats(0, 0, 0, None, None))


def test_a_probe_s_report_prints_likewise():
    report = dq.BackwardStats(jnp.array([3.0, 4.0]), jnp.array([0.1, 0.2]), jnp.array([1.0, 2.0]))
    assert repr(report).startswith("BackwardStats(2 samples: 1 at the step limit (1), 1 converged")
    assert "<table>" in report._repr_html_()
