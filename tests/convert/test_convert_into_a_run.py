"""``deqjax convert --recipe``: published weights as a run to evaluate and to train on."""

from pathlib import Path

import pytest

from deqjax import cli, training

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "deq_transformer_plain.pth"
RECIPE = '''
from deqjax.tasks.language import LanguageTask, Text
from deqjax.training import EvaluationConfig, RunConfig

def config():
    """Characters in streams."""
    return RunConfig(
        name="adopted",
        task=LanguageTask(text=Text(corpus="text_characters", file="elsewhere.txt")),
        batch_size=4,
        order="given",
        evaluation=EvaluationConfig(final_batches=2, radius_batches=0),
    )
'''


@pytest.fixture
def converted(tmp_path):
    pytest.importorskip("torch", reason="reading PyTorch checkpoints needs PyTorch")
    if not GOLDEN.is_file():
        pytest.skip("the golden checkpoints of the workplace are not here")
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 40)
    (tmp_path / "recipe.py").write_text(RECIPE)
    options = {
        "--config": GOLDEN.with_suffix(".json"),
        "--out": tmp_path / "run",
        "--recipe": tmp_path / "recipe.py",
        "--file": tmp_path / "text.txt",
        "--directory": tmp_path / "datasets",
    }
    words = [str(word) for option in options.items() for word in option]
    assert cli.main(["convert", str(GOLDEN), *words]) == 0
    return tmp_path / "run"


def test_a_converted_model_is_a_run(converted):
    metrics = training.evaluate_run(converted)
    assert 0 < metrics["loss"] < 20
    assert training.load_run(converted).config.task.network.shape.memory_length == 16


def test_a_place_that_the_recipe_has_no_use_for_is_refused(tmp_path, capsys):
    file = tmp_path / "recipe.py"
    file.write_text(
        "from deqjax.tasks.vision import VisionTask\nfrom deqjax.training import RunConfig\n"
        "def config(): return RunConfig('images', task=VisionTask())\n"
    )
    words = ["--config", "x.json", "--out", str(tmp_path / "run"), "--recipe", str(file)]
    assert cli.main(["convert", "x.pth", *words, "--file", "text.txt"]) == 2
    assert f"--file means nothing to {file}; leave it out." in capsys.readouterr().err
