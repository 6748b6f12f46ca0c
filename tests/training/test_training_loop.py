import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from optax.contrib import MuonState

from deqjax import training
from deqjax.tasks.language import generate_text
from deqjax.training import (
    CheckpointError,
    Checkpoints,
    ConfigError,
    OptimizerConfig,
    WorkdirError,
    read_metrics,
)
from deqjax.training.devices import DataParallel
from deqjax.training.devices._interrupts import StopRequest
from deqjax.training.records._reading import comparable
from tiny import tiny_config, with_parts


def silent(line):
    del line


def run_config(data_directory, **changes):
    """A run that is interrupted in the third step, inside of what its record averages over."""
    config = tiny_config(data_directory, steps=5, log_every=5, checkpoint_every=4, **changes)
    return with_parts(config, evaluation__every=4)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_directory, compiled_once):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with compiled_once():
        return training.train(run_config(data_directory), folder, say=silent)


def test_run_leaves_its_records(uninterrupted):
    folder = uninterrupted.workdir
    records = read_metrics(folder.metrics)
    assert [(r["step"], r["split"]) for r in records if r["split"] != "event"] == [
        (4, "validation"),
        (4, "checkpoint"),
        (5, "train"),
        (5, "checkpoint"),
        (5, "validation"),
    ]
    assert folder.picture.stat().st_size > 1000
    assert list(folder.events.iterdir())
    assert json.loads(folder.config.read_text())["experiment"] == "tiny"


def test_a_record_holds_what_was_measured(uninterrupted):
    (record,) = [r for r in read_metrics(uninterrupted.workdir.metrics) if r["split"] == "train"]
    assert record.keys() >= {
        *("loss", "bits_per_byte", "penalty", "gradient_norm", "learning_rate", "skipped"),
        *(f"{way}_steps{most}" for way in ("forward", "backward") for most in ("", "_max")),
        *("forward_residual", "backward_residual", "forward_converged", "backward_diverged"),
        *("tokens_per_second", "data_wait", "host_memory_gib"),
    }
    assert record["forward_steps"] <= record["forward_steps_max"] <= 6
    assert 0 <= record["data_wait"] < 1


def test_the_hash_of_the_state_is_logged(uninterrupted):
    hashes = [r for r in read_metrics(uninterrupted.workdir.metrics) if r["split"] == "checkpoint"]
    with Checkpoints(uninterrupted.workdir.checkpoints, read_only=True) as checkpoints:
        assert [checkpoints.state_hash(r["step"]) for r in hashes] == [
            r["state_hash"] for r in hashes
        ]
    assert uninterrupted.state_hash == hashes[-1]["state_hash"]


def test_final_metrics_hold_model_and_bigram(uninterrupted):
    metrics = uninterrupted.metrics
    assert 0 < metrics["bigram_bits_per_byte"] < 8
    assert 0 < metrics["bits_per_byte"] < 12
    assert 0 < metrics["spectral_radius"] <= metrics["spectral_radius_max"]
    assert metrics["scored"] == 2 * 4 * 8


def train_three_steps(config, folder, devices=None):
    """Stop after the third step as if by Ctrl-C in the first."""
    asked = []

    class Asked(StopRequest):
        def __enter__(self):
            asked.append(self)
            return super().__enter__()

    steps = DataParallel.train
    count = iter(range(10))

    def counted(self, state, batch, **options):
        if next(count) == 0:
            asked[-1].signal = signal.SIGINT
        return steps(self, state, batch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.training._launch.StopRequest", Asked)
        patch.setattr("deqjax.training.devices._parallel.DataParallel.train", counted)
        stopped = training.train(config, folder, devices=devices, say=silent)
    assert (stopped.step, stopped.stopped_by, stopped.metrics) == (3, signal.SIGINT, None)


def go_on(config, folder, devices=None):
    resumed = training.train(config, folder, resume=True, devices=devices, say=silent)
    assert resumed.step == config.steps
    return resumed


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, data_directory, uninterrupted, compiled_once):
    """Folder of a run like the uninterrupted one that was stopped, to go on with copies of."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with compiled_once():
        train_three_steps(run_config(data_directory), folder)
    return folder


def assert_same_end(resumed, whole):
    assert resumed.state_hash == whole.state_hash
    assert resumed.metrics == whole.metrics
    found, expected = (comparable(read_metrics(run.workdir.metrics)) for run in (resumed, whole))
    assert found == expected


def test_resumed_run_reaches_the_same_state_bit_for_bit(
    tmp_path, data_directory, uninterrupted, interrupted
):
    """Its steps are traced again, as in the new process that a resumed run is."""
    shutil.copytree(interrupted, tmp_path / "run")
    assert_same_end(go_on(run_config(data_directory), tmp_path / "run"), uninterrupted)


def test_a_resumed_run_remembers_its_segments(tmp_path):
    """Streams of characters with memory, the first step of them in the warm-up stage."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question: " * 60)
    config = run_config(tmp_path / "datasets", pretrain_steps=1, average_decay=0.9)
    config = with_parts(
        config,
        order="given",
        task__network__shape__memory_length=6,
        task__text__corpus="text_characters",
        task__text__file=str(tmp_path / "text.txt"),
    )
    whole = training.train(config, tmp_path / "whole", say=silent)
    train_three_steps(config, tmp_path / "run")
    assert_same_end(go_on(config, tmp_path / "run"), whole)
    memory = training.load_run(tmp_path / "run").state.memory
    np.testing.assert_array_equal(memory.filled, [6, 6, 6, 6])
    assert np.abs(memory.states).max() > 0
    assert 1 < whole.metrics["loss"] < 10
    assert "bits_per_byte" not in whole.metrics


def test_a_run_of_muon_goes_on_longer_as_if_it_had_always_been(
    tmp_path, data_directory, compiled_once
):
    """On two devices, from before the decay of its schedule; its momentum is in the checkpoint."""
    optimizer = OptimizerConfig("muon", "stable_decay", warmup_steps=1, decay_fraction=0.3)
    short = run_config(data_directory, optimizer=optimizer)
    long = dataclasses.replace(short, steps=6)
    devices = tuple(jax.devices()[:2])
    with compiled_once():
        whole = training.train(long, tmp_path / "whole", devices=devices, say=silent)
        train_three_steps(short, tmp_path / "run", devices)
        assert_same_end(go_on(long, tmp_path / "run", devices), whole)
    state = training.load_run(tmp_path / "run").state.optimizer
    (momentum,) = [
        each.mu
        for each in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, MuonState))
        if isinstance(each, MuonState)
    ]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(momentum))


def without_position(restore, self, state, iterator, step):
    del iterator
    return restore(self, state, None, step)


def without_optimizer(restore, self, state, iterator, step):
    found, restored, meta = restore(self, state, iterator, step)
    return found, restored._replace(optimizer=state.optimizer), meta


def without_keys(restore, self, state, iterator, step):
    found, restored, meta = restore(self, state, iterator, step)
    return found, restored._replace(key=jax.random.key(1)), meta


@pytest.mark.parametrize("mutant", [without_position, without_optimizer, without_keys])
def test_what_a_run_forgets_is_noticed(
    tmp_path, data_directory, uninterrupted, interrupted, compiled_once, mutant
):
    """The proof that the test above can fail."""
    shutil.copytree(interrupted, tmp_path / "run")
    restore = Checkpoints.restore

    def forgetful(self, state, iterator=None, step=None):
        return mutant(restore, self, state, iterator, step)

    with compiled_once(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "restore", forgetful)
        resumed = go_on(run_config(data_directory), tmp_path / "run")
    assert resumed.state_hash != uninterrupted.state_hash


def test_a_signal_after_the_last_step_does_not_cost_the_final_evaluation(
    tmp_path, data_directory, uninterrupted, compiled_once
):
    config, copy = run_config(data_directory), tmp_path / "run"
    shutil.copytree(uninterrupted.workdir.path, copy)
    shutil.rmtree(copy / "checkpoints" / "5")  # the fifth step and what follows are still to do

    class Asked(StopRequest):
        def __enter__(self):
            self.signal = signal.SIGTERM
            return super().__enter__()

    with compiled_once(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.training._launch.StopRequest", Asked)
        outcome = training.train(config, copy, resume=True, say=silent)
    assert outcome.step == config.steps
    assert outcome.metrics == uninterrupted.metrics
    assert outcome.stopped_by == signal.SIGTERM


def test_a_run_that_died_before_its_final_evaluation_makes_it(
    tmp_path, data_directory, uninterrupted, compiled_once
):
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted.workdir.path, copy)
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] < 5 or '"train"' in line]
    (copy / "metrics.jsonl").write_text("".join(kept))
    with compiled_once():
        resumed = training.train(run_config(data_directory), copy, resume=True, say=silent)
    assert resumed.metrics == uninterrupted.metrics
    records = [(r["step"], r["split"]) for r in read_metrics(copy / "metrics.jsonl")]
    assert sorted(records[-2:]) == [(5, "checkpoint"), (5, "validation")]


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    tmp_path, data_directory, uninterrupted, compiled_once
):
    copy, said = tmp_path / "run", []
    shutil.copytree(uninterrupted.workdir.path, copy)
    newest = copy / "checkpoints" / "5"
    (newest / "meta" / "metadata").write_text("")
    with compiled_once():
        resumed = training.train(run_config(data_directory), copy, resume=True, say=said.append)
    assert any(f"The checkpoint in {newest} is damaged" in line for line in said)
    assert (copy / "quarantine" / "5").is_dir()
    assert_same_end(resumed, uninterrupted)


def test_other_data_are_refused_with_the_difference(tmp_path, data_directory, uninterrupted):
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted.workdir.path, copy)
    config = dataclasses.replace(run_config(data_directory), steps=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.data.text._fingerprint._PIPELINE_VERSION", 0)
        with pytest.raises(CheckpointError, match=r"other data \(version: 1 -> 0\)"):
            training.train(config, copy, resume=True, say=silent)


def test_finished_run_does_not_start_again(data_directory, uninterrupted):
    with pytest.raises(ConfigError, match="raise --steps above 5"):
        training.train(
            run_config(data_directory), uninterrupted.workdir.path, resume=True, say=silent
        )


def test_used_folder_is_not_overwritten(data_directory, uninterrupted):
    with pytest.raises(WorkdirError, match="--resume"):
        training.train(run_config(data_directory), uninterrupted.workdir.path, say=silent)


def test_other_experiments_folder_is_refused(data_directory, uninterrupted):
    with pytest.raises(WorkdirError, match="tiny"):
        training.train(
            tiny_config(data_directory, name="other"),
            uninterrupted.workdir.path,
            resume=True,
            say=silent,
        )


def test_explicit_baseline_trains(tmp_path, data_directory):
    config = with_parts(tiny_config(data_directory, steps=2), task__network__kind="transformer_xl")
    outcome = training.train(config, tmp_path / "run", say=silent)
    assert "spectral_radius" not in outcome.metrics
    assert 0 < outcome.metrics["bits_per_byte"] < 12


def test_evaluate_run_repeats_the_final_metrics(uninterrupted):
    metrics = training.evaluate_run(uninterrupted.workdir.path)
    assert metrics["bits_per_byte"] == uninterrupted.metrics["bits_per_byte"]


def test_evaluate_run_takes_limits_at_run_time(uninterrupted):
    metrics = training.evaluate_run(uninterrupted.workdir.path, max_steps=1, tol=0.0)
    assert metrics["forward_steps"] == 1


def test_evaluate_run_scores_the_test_split(uninterrupted):
    test = training.evaluate_run(uninterrupted.workdir.path, split="test")
    assert test["bits_per_byte"] != uninterrupted.metrics["bits_per_byte"]


def test_evaluate_run_refuses_no_steps(uninterrupted):
    with pytest.raises(ConfigError, match="--max-steps must be at least 1"):
        training.evaluate_run(uninterrupted.workdir.path, max_steps=0)


def test_generated_text_depends_on_the_seed_alone(uninterrupted):
    def text(seed):
        pieces = generate_text(
            uninterrupted.workdir.path, "def ", count=12, temperature=1.0, seed=seed
        )
        return "".join(pieces)

    assert text(0) == text(0)
    assert text(0) != text(1)


def test_evaluating_an_empty_folder_says_so(tmp_path):
    with pytest.raises(WorkdirError, match="no run"):
        training.evaluate_run(tmp_path)
