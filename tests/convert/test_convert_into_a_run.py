"""``deqjax convert --recipe``: published weights as a run to evaluate and to train on."""

from pathlib import Path

import pytest

from deqjax import cli, training

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "deq_transformer_plain.pth"
RECIPE = '''
import dataclasses
from deqjax.training import DataConfig, EvaluationConfig, ModelConfig, TrainConfig

def config():
    """Characters in streams."""
    return TrainConfig(
        name="adopted",
        data=DataConfig(corpus="text_characters", order="streams", batch_size=4),
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
    assert training.load_run(converted).config.model.shape.memory_length == 16
