"""Which metrics a run warns of: both sides of every threshold."""

import dataclasses

import pytest

from deqjax.training.advice import warnings
from deqjax.training.config import GuardConfig
from tiny import tiny_config

DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "backward"])


def config():
    tiny = tiny_config("unused", guard=GuardConfig(diverged=0.05, unfinished=0.5))
    solver = dataclasses.replace(tiny.solver, tol=1e-3, backward_tol=1e-3)
    return dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, solver=solver))


def metrics(direction, converged=1.0, diverged=0.0, residual=1e-4):
    sound = {"converged": 1.0, "diverged": 0.0, "residual": 1e-4}
    own = {"converged": converged, "diverged": diverged, "residual": residual}
    other = "backward" if direction == "forward" else "forward"
    named = {f"{other}_{name}": value for name, value in sound.items()}
    return named | {f"{direction}_{name}": value for name, value in own.items()}


@DIRECTIONS
def test_sound_solves_warn_of_nothing(direction):
    assert warnings(config(), metrics(direction)) == {}


@DIRECTIONS
def test_divergence_up_to_the_threshold_is_borne(direction):
    assert warnings(config(), metrics(direction, converged=0.95, diverged=0.05)) == {}


@DIRECTIONS
def test_divergence_above_the_threshold_is_told(direction):
    ((name, sentence),) = warnings(
        config(), metrics(direction, converged=0.94, diverged=0.06)
    ).items()
    assert name == f"{direction} diverged"
    assert sentence.startswith(f"6% of the {direction} solves diverge")
    assert "--penalty.weight 0.5" in sentence


@DIRECTIONS
@pytest.mark.parametrize(("converged", "residual"), [(0.5, 0.1), (0.0, 0.01)])
def test_solves_that_are_mostly_finished_or_near_are_borne(direction, converged, residual):
    assert warnings(config(), metrics(direction, converged, residual=residual)) == {}


@DIRECTIONS
@pytest.mark.parametrize("residual", [0.011, float("inf"), float("nan")])
def test_solves_that_stop_far_from_their_end_are_told(direction, residual):
    ((name, sentence),) = warnings(config(), metrics(direction, 0.49, residual=residual)).items()
    assert name == f"{direction} unfinished"
    assert sentence.startswith(f"51% of the {direction} solves stop at their limit")
    limit = {"forward": "max-steps 6", "backward": "backward-max-steps 4"}[direction]
    assert f"--model.solver.{limit}" in sentence


def test_solves_that_diverge_are_not_told_to_be_unfinished():
    found = warnings(config(), metrics("forward", 0.0, diverged=0.4, residual=1.0))
    assert set(found) == {"forward diverged"}


def test_both_directions_are_told():
    found = metrics("forward", 0.0, residual=1.0) | {"backward_diverged": 1.0}
    assert set(warnings(config(), found)) == {"forward unfinished", "backward diverged"}


def test_a_model_that_solves_nothing_is_not_warned_of():
    assert warnings(config(), {"loss": 1.0}) == {}


def test_a_reached_limit_of_the_guard_is_not_above_it():
    strict = dataclasses.replace(config(), guard=GuardConfig(diverged=0.0, unfinished=0.0))
    assert warnings(strict, metrics("forward", residual=1.0)) == {}
