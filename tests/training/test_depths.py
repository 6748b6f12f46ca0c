"""Scores of one run at different depths, and the table of them."""

import math
from types import SimpleNamespace

import pytest
from flax import nnx

from deqjax import cli, training
from deqjax.training import CheckpointError, ConfigError, adopt_model
from deqjax.training._depths import sweep_depths
from deqjax.training.devices import _parallel
from tiny import tiny_config, with_parts


def adopted(config, path):
    """A run that holds a fresh model, which costs no training."""
    model = config.task.opened(None).model(nnx.Rngs(1))
    return adopt_model(model, config, path).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_directory):
    return adopted(tiny_config(data_directory), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def explicit(tmp_path_factory, data_directory):
    config = with_parts(tiny_config(data_directory), task__network__kind="transformer_xl")
    return adopted(config, tmp_path_factory.mktemp("runs") / "explicit")


@pytest.fixture(scope="module")
def sweep(folder):
    """The depths (3, 1, 6), and how often an evaluation was traced for them."""
    traces = []
    evaluate = _parallel.evaluate_step

    def counted(*given):
        traces.append(1)
        return evaluate(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.training.devices._parallel.evaluate_step", counted)
        return sweep_depths(folder, (3, 1, 6)), len(traces)


def test_scores_come_in_the_order_of_their_depths(sweep):
    assert [score.depth for score in sweep[0]] == [3, 1, 6]


def test_each_depth_scores_as_an_evaluation_with_this_limit(sweep, folder):
    for score in sweep[0]:
        alone = training.evaluate_run(folder, max_steps=score.depth, tol=0.0)
        assert alone["forward_steps"] == score.depth
        assert score.loss == alone["loss"]
        assert score.residual == alone["forward_residual"]
        names = ("bits_per_byte", "bigram_bits_per_byte")
        assert score.others == {name: alone[name] for name in names}


def test_deeper_is_nearer_to_the_fixed_point(sweep):
    three, one, six = (score.residual for score in sweep[0])
    assert one > three > six > 0


def test_all_depths_share_one_program(sweep):
    assert sweep[1] == 1


def test_another_split_can_be_swept(sweep, folder):
    (test,) = sweep_depths(folder, (3,), split="test")
    assert test.loss != sweep[0][0].loss


def test_another_checkpoint_can_be_swept(folder):
    with pytest.raises(CheckpointError, match="7"):
        sweep_depths(folder, (3,), checkpoint=7)


def test_scores_are_those_that_the_task_has(monkeypatch):
    found = {"loss": 1.0, "forward_residual": 0.1, "top1": 0.5, "top5": 0.9, "perplexity": 3.0}
    run = SimpleNamespace(
        config=tiny_config("unused"),
        state=SimpleNamespace(evaluated=None),
        steps=SimpleNamespace(place_weights=lambda weights: weights),
    )
    monkeypatch.setattr("deqjax.training._depths.load_run", lambda *given, **options: run)
    monkeypatch.setattr("deqjax.training._depths.evaluate", lambda *given, **options: found)
    (score,) = sweep_depths("anywhere", (2,))
    assert score == (2, 1.0, 0.1, {"perplexity": 3.0, "top1": 0.5, "top5": 0.9})


@pytest.mark.parametrize("depths", [(4, 0), (-1,), (2.5,)])
def test_depths_that_make_no_sense_are_named(tmp_path, depths):
    with pytest.raises(ConfigError, match=rf"--depths .* at least 1, got {depths[-1]}"):
        sweep_depths(tmp_path, depths)


def test_no_depths_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--depths needs at least one"):
        sweep_depths(tmp_path, ())


def test_an_explicit_model_is_refused(explicit):
    with pytest.raises(ConfigError, match=r"solves nothing; drop .* and --depths"):
        sweep_depths(explicit)


def test_the_command_prints_a_row_for_each_depth(sweep, folder, capsys):
    assert cli.main(["evaluate", str(folder), "--depths", "3", "1"]) == 0
    rows = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    expected = [
        [str(score.depth), *(f"{value:.4f}" for value in score.others.values())]
        for score in sweep[0][:2]
    ]
    assert [row[: len(cells)] for row, cells in zip(rows, expected, strict=True)] == expected
    for row, score in zip(rows, sweep[0], strict=False):
        assert math.isclose(float(row[-1]), score.residual, rel_tol=0.05)


def test_the_command_refuses_limits_beside_depths(tmp_path, capsys):
    options = ["evaluate", str(tmp_path), "--depths", "3", "--max-steps", "4"]
    assert cli.main(options) == 2
    assert "drop --max-steps" in capsys.readouterr().err


def test_the_command_refuses_an_explicit_model_in_one_sentence(explicit, capsys):
    assert cli.main(["evaluate", str(explicit), "--depths", "3"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("deqjax: error: ")
    assert "an explicit model solves nothing" in line
