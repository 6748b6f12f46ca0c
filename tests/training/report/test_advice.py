"""What a run warns of at once: the report's rules on its last record, thresholds on both sides."""

import pytest

from deqjax.training._config_values import to_dict
from deqjax.training.report import _solver_findings
from deqjax.training.report._advice import warnings
from tiny import tiny_config

CONFIG = to_dict(tiny_config("unused"))
SOUND = {
    f"{direction}_{name}": value
    for direction in ("forward", "backward")
    for name, value in {"converged": 1.0, "diverged": 0.0, "residual": 1e-4, "steps": 3.0}.items()
}


def of(changes, **config):
    return warnings(CONFIG | config, 10, {"loss": 1.0, **SOUND, **changes})


def test_sound_solves_warn_of_nothing():
    assert of({}) == {}


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_solves_that_diverge_are_told_with_what_to_do(direction):
    share = 2 * _solver_findings.DIVERGED
    found = of({f"{direction}_diverged": share, f"{direction}_converged": 1 - share})
    assert list(found) == [f"{direction}-diverges"]
    assert "raise --penalty.weight (now 0.5)" in found[f"{direction}-diverges"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_solves_that_stop_at_the_limit_are_told_with_what_to_do(direction):
    share = _solver_findings.UNFINISHED
    name = "step-limit" if direction == "forward" else "backward-step-limit"
    assert of({f"{direction}_converged": 1.001 - share}) == {}
    found = of({f"{direction}_converged": 0.999 - share, f"{direction}_residual": 0.3})
    assert list(found) == [name]
    limit = {"forward": "max-steps (now 6)", "backward": "backward-max-steps (now 4)"}[direction]
    assert f"raise --task.network.solver.{limit} or --penalty.weight (now 0.5)" in found[name]


def test_limits_that_are_drawn_at_random_are_no_reason_to_warn():
    drawn = {"distribution": "poisson", "least": 2, "mean": 4.0}
    assert of({"forward_converged": 0.0}, step_limit=drawn) == {}


def test_a_model_that_solves_nothing_is_not_warned_of():
    assert warnings(CONFIG, 10, {"loss": 1.0}) == {}
