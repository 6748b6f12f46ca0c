"""Experiments of one's own: each kind of model and data through every command."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from deqjax.cli import main

FILES = sorted((Path(__file__).parents[2] / "experiments" / "own").glob("*.py"))
QUICK = [
    *("--steps", "6", "--checkpoint-every", "3", "--log-every", "3", "--batch-size", "8"),
    *("--evaluation.every", "3", "--evaluation.batches", "2", "--evaluation.final-batches", "2"),
    *("--penalty.probability", "1", "--task.width", "8"),
]


def state_hashes(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {each["step"]: each["state_hash"] for each in records if each["split"] == "checkpoint"}


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / request.param.stem
    assert main(["train", str(request.param), "--workdir", str(folder), *QUICK]) == 0
    return request.param, folder


def test_there_are_several_devices():
    assert jax.device_count() > 1


def test_the_files_are_short():
    for file in FILES:
        code = file.read_text().split('"""', 2)[2]
        assert len([line for line in code.splitlines() if line.strip()]) <= 40, file.name


def test_it_is_penalized_and_its_solves_are_reported(trained):
    _, folder = trained
    records = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    last = [each for each in records if each["split"] == "train"][-1]
    assert last["penalty"] > 0
    assert last["forward_steps"] > 0
    assert last["backward_steps"] >= 0
    scores = [each for each in records if each["split"] == "validation"][-1]
    assert scores["spectral_radius"] > 0
    assert scores["tolerance"] > 0


def test_the_option_is_the_runs(trained):
    _, folder = trained
    stored = json.loads((folder / "config.json").read_text())
    assert stored["config"]["task"]["width"] == 8


def test_a_run_that_was_cut_off_ends_in_the_same_state(trained, tmp_path):
    file, folder = trained
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints" / "6")  # as kill -9 before step 6 would leave it
    lines = (again / "metrics.jsonl").read_text().splitlines(keepends=True)
    (again / "metrics.jsonl").write_text("".join(x for x in lines if json.loads(x)["step"] <= 3))
    assert main(["train", str(file), "--workdir", str(again), "--resume", *QUICK]) == 0
    assert state_hashes(again)[6] == state_hashes(folder)[6]


def test_it_is_evaluated_inspected_and_compared(trained, capsys):
    _, folder = trained
    assert main(["evaluate", str(folder), "--split", "test", "--max-steps", "2"]) == 0
    assert "spectral radius" in capsys.readouterr().out
    assert main(["inspect", str(folder)]) == 0
    assert main(["compare", str(folder)]) == 0
    assert folder.name in capsys.readouterr().out
