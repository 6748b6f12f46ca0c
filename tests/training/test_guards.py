"""Runs in which something goes wrong: numbers that are not finite, disks that are full."""

import dataclasses
import re
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from deqjax import training
from deqjax.training import (
    CheckpointError,
    Checkpoints,
    DivergenceError,
    GuardConfig,
    OptimizerConfig,
    read_metrics,
)
from deqjax.training.batches._pipeline import TrainingBatches
from deqjax.training.devices import DataParallel
from deqjax.training.devices._interrupts import StopRequest
from tiny import with_parts
from tiny_vision import tiny_vision


def config(**changes):
    """The quickest run to compile: two records, a checkpoint every second step."""
    base = tiny_vision("resnet", steps=6, guard=GuardConfig(skips=2, rollbacks=1))
    base = with_parts(base, evaluation__every=100, evaluation__final_batches=1)
    return dataclasses.replace(base, **changes)


@pytest.fixture(autouse=True)
def share(compiled_once):
    """Most runs here are of one configuration: what goes wrong is outside of its steps."""
    with compiled_once():
        yield


@pytest.fixture
def spoil(monkeypatch):
    """Lets the batches of some numbers (from 1) have one image with a pixel that is no number."""

    def choose(spoiled):
        take, count = TrainingBatches.__next__, iter(range(1, 1000))

        def spoiled_batch(self):
            batch = take(self)
            if spoiled(next(count)):
                batch.rows.images[3, 0, 0] = np.nan
            return batch

        monkeypatch.setattr(TrainingBatches, "__next__", spoiled_batch)

    return choose


def run(tmp_path, say=lambda line: None, **changes):
    outcome = training.train(config(**changes), tmp_path / "run", say=say)
    return outcome, read_metrics(outcome.workdir.metrics)


def of(records, split):
    return [record for record in records if record["split"] == split]


def test_a_bad_batch_is_left_out_and_the_run_goes_on(tmp_path, spoil):
    spoil(lambda number: number == 3)
    outcome, records = run(tmp_path)
    assert outcome.step == 6
    assert [record["skipped"] for record in of(records, "train")] == [0, 1, 0]
    assert all(np.isfinite(record["loss"]) for record in of(records, "train"))
    state = training.load_run(outcome.workdir.path).state
    assert (int(state.skips.total), int(state.skips.in_a_row)) == (1, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.weights))


def test_no_checkpoint_is_made_while_updates_are_left_out(tmp_path, spoil):
    spoil(lambda number: number == 4)
    _, records = run(tmp_path, guard=GuardConfig(skips=3))
    # the checkpoint of step 4 is made up for at the next record
    assert [record["step"] for record in of(records, "checkpoint")] == [2, 6]


def test_bad_batches_in_a_row_make_the_run_go_back(tmp_path, spoil):
    spoil(lambda number: number in (3, 4))
    outcome, records = run(tmp_path)
    assert outcome.step == 6
    (event,) = of(records, "event")
    assert re.search(
        r"the loss was not finite in 2 steps in a row, up to step 4; rolled back to step 2, .* "
        r"\(1 of at most 1 times\)",
        event["event"],
    )
    assert [record["step"] for record in of(records, "train")] == [2, 4, 6]
    state = training.load_run(outcome.workdir.path).state
    # the steps were made again with the data that came next, of which none is bad
    assert (int(state.step), int(state.skips.total)) == (6, 0)


def test_it_goes_back_to_the_beginning_if_there_is_no_checkpoint(tmp_path, spoil):
    spoil(lambda number: number in (1, 2))
    outcome, records = run(tmp_path)
    assert "rolled back to step 0" in of(records, "event")[0]["event"]
    assert outcome.step == 6


def test_numbers_that_stay_bad_end_the_run_with_a_sentence(tmp_path, spoil):
    spoil(lambda number: number > 2)
    with pytest.raises(
        DivergenceError,
        match=r"gone back 1 time\(s\) already\. .*--resume with a lower --optimizer\.learning-rate",
    ) as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    folder = tmp_path / "run" / "checkpoints"
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]


def test_a_run_that_has_gone_back_resumes_where_it_was_in_the_data(tmp_path, spoil):
    spoil(lambda number: number in (3, 4))
    outcome, _ = run(tmp_path)
    meta = outcome.workdir.checkpoints / "6" / "meta" / "metadata"
    # six steps, and two batches that were passed over
    assert '"next_index": 8' in meta.read_text()
    assert '"rollbacks": 1' in meta.read_text()


def test_a_state_saved_while_updates_are_left_out_is_not_gone_back_to(tmp_path, spoil, monkeypatch):
    """SIGTERM comes during bad batches: what it saves is resumed from, but not rolled back to."""
    spoil(lambda number: number in (4, 5, 6))
    asked = []

    class Asked(StopRequest):
        def __enter__(self):
            asked.append(self)
            return super().__enter__()

    train, count = DataParallel.train, iter(range(1, 100))

    def counted(self, state, batch, **options):
        if next(count) == 3:
            asked[0].signal = signal.SIGTERM
        return train(self, state, batch, **options)

    monkeypatch.setattr("deqjax.training._launch.StopRequest", Asked)
    monkeypatch.setattr(DataParallel, "train", counted)
    settings = config(guard=GuardConfig(skips=3, rollbacks=1), checkpoint_every=3, log_every=3)
    stopped = training.train(settings, tmp_path / "run", say=lambda line: None)
    assert stopped.step in (4, 5)
    outcome = training.train(settings, tmp_path / "run", resume=True, say=lambda line: None)
    events = [record["event"] for record in of(read_metrics(outcome.workdir.metrics), "event")]
    assert any("rolled back to step 3" in event for event in events)
    assert (outcome.workdir.quarantine / str(stopped.step)).is_dir()
    assert outcome.step == 6


def test_which_signals_stop_a_run_is_an_option(tmp_path, monkeypatch):
    train, count = DataParallel.train, iter(range(1, 100))

    def interrupted(self, state, batch, **options):
        if next(count) == 3:
            signal.raise_signal(signal.SIGUSR2)
        return train(self, state, batch, **options)

    monkeypatch.setattr(DataParallel, "train", interrupted)
    guard = GuardConfig(skips=2, rollbacks=1, signals=("SIGUSR2",))
    outcome, records = run(tmp_path, guard=guard)
    assert outcome.stopped_by == signal.SIGUSR2
    assert f"stopped, state {outcome.state_hash}" in of(records, "event")[-1]["event"]
    assert (outcome.workdir.checkpoints / str(outcome.step)).is_dir()


def test_a_listener_that_fails_ends_no_run(tmp_path):
    calls = []

    def say(line):
        calls.append(line)
        raise BrokenPipeError(32, "Broken pipe")

    outcome, records = run(tmp_path, say)
    assert outcome.step == 6
    assert len(calls) == 1
    assert ["Broken pipe" in record["event"] for record in of(records, "event")] == [True]


def test_a_full_disk_ends_no_run(tmp_path, monkeypatch):
    save, said = Checkpoints.save, []

    def full(self, step, *rest, **options):
        if step == 2:
            raise CheckpointError(f"Step 2 could not be saved in {self.directory} (disk full).")
        return save(self, step, *rest, **options)

    monkeypatch.setattr(Checkpoints, "save", full)
    outcome, records = run(tmp_path, said.append)
    assert outcome.rescued is None
    assert [record["step"] for record in of(records, "checkpoint")] == [4, 6]
    folder = outcome.workdir.checkpoints
    assert any(f"Step 2 could not be saved in {folder}" in line for line in said)


def test_a_save_that_fails_on_the_way_is_told_of_and_repeated(tmp_path, monkeypatch):
    """The save itself returns, and its thread fails, as when the disk fills up."""
    wait, said, failing = Checkpoints.wait, [], [True]

    def failing_wait(self):
        wait(self)
        if self.latest_step() == 2 and failing:
            failing.clear()
            raise CheckpointError("Step 2 could not be saved.")

    monkeypatch.setattr(Checkpoints, "wait", failing_wait)
    outcome, records = run(tmp_path, said.append, log_every=1, checkpoint_every=2, steps=7)
    assert any("Step 2 could not be saved" in line and "goes on" in line for line in said)
    assert outcome.step == 7
    # besides those of every second step, one at the record after the failure was found out
    saved = {record["step"] for record in of(records, "checkpoint")}
    assert saved - {2, 4, 6, 7} in ({3}, {5})


def test_a_state_that_cannot_be_saved_in_the_folder_is_saved_elsewhere(tmp_path, monkeypatch):
    save, said = Checkpoints.save, []

    def refused(self, *rest, **options):
        if self.directory.is_relative_to(tmp_path / "run"):
            raise CheckpointError(f"Step 6 could not be saved in {self.directory} (read-only).")
        return save(self, *rest, **options)

    monkeypatch.setattr(Checkpoints, "save", refused)
    monkeypatch.setattr("deqjax.training._loop.time.sleep", lambda seconds: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome, _ = run(tmp_path, said.append, checkpoint_every=100)
    assert outcome.metrics is not None
    assert any(f"saved in {outcome.rescued} instead" in line for line in said)
    with Checkpoints(outcome.rescued.parent, read_only=True) as checkpoints:
        assert checkpoints.steps() == [6]
        assert outcome.rescued.name == "6"
        assert checkpoints.state_hash(6) == outcome.state_hash


@pytest.fixture
def before_step(monkeypatch):
    """Lets something happen before a step is made."""

    def choose(step, happen):
        train, count = DataParallel.train, iter(range(1, 100))

        def counted(self, state, batch, **options):
            if next(count) == step:
                happen()
            return train(self, state, batch, **options)

        monkeypatch.setattr(DataParallel, "train", counted)

    return choose


def test_a_checkpoints_folder_that_became_a_file_is_told_of_once(
    tmp_path, before_step, monkeypatch, capfd
):
    folder, said = tmp_path / "run" / "checkpoints", []

    def replace():
        folder.rmdir()
        folder.write_text("")

    before_step(1, replace)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome, _ = run(tmp_path, said.append, log_every=1)
    assert outcome.rescued.is_dir()
    [told] = [line for line in said if "could not be saved" in line]
    assert "Not a directory" in told
    assert told.endswith("Training goes on; saving is tried at each record.")
    # threads that wait for the folder would keep the process from ending for minutes
    assert not [each for each in threading.enumerate() if "orbax" in type(each).__module__]
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_folder_that_vanishes_is_made_anew_and_said_so(tmp_path, before_step):
    folder, said = tmp_path / "run", []
    before_step(3, lambda: shutil.rmtree(folder))
    outcome, records = run(tmp_path, said.append, checkpoint_every=100)
    assert (outcome.step, outcome.rescued) == (6, None)
    [told] = [line for line in said if "was removed or renamed" in line]
    assert told.startswith(f"step 4: {folder} was removed")
    assert [record["step"] for record in of(records, "train")] == [4, 6]
    assert int(training.load_run(folder).state.step) == 6


def test_a_checkpoints_folder_that_vanishes_is_made_anew(tmp_path, before_step):
    folder, said = tmp_path / "run" / "checkpoints", []
    before_step(3, lambda: shutil.rmtree(folder))
    outcome, _ = run(tmp_path, said.append, checkpoint_every=100)
    assert (outcome.step, outcome.rescued) == (6, None)
    [told] = [line for line in said if "was removed or renamed" in line]
    assert told.startswith(f"step 4: {folder} was removed")


def test_solves_that_fail_are_warned_of_once(tmp_path):
    said = []
    quick = with_parts(
        config(steps=4),
        task__network__kind="resdeq",
        task__network__solver__tol=1e-9,
        task__network__solver__max_steps=1,
        task__network__solver__method="picard",
        task__network__solver__adjoint="jacobian_free",
        evaluation__radius_batches=0,
    )
    training.train(quick, tmp_path / "run", say=said.append)
    warned = [line for line in said if "forward solves stop at the step limit" in line]
    assert len(warned) == 1
    assert "raise --task.network.solver.max-steps (now 1) or --penalty.weight" in warned[0]


def test_devices_that_differ_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(DataParallel, "differing", lambda self, state: 3)
    with pytest.raises(training.ReplicaError, match=r"3 numbers of the .* differ .* at step 2"):
        run(tmp_path)


def test_profile_writes_a_trace(tmp_path):
    training.train(config(), tmp_path / "run", profile=True, say=lambda line: None)
    assert list((tmp_path / "run" / "profile").rglob("*.trace.json.gz"))


def test_a_remedy_can_be_followed_on_resume(tmp_path, spoil):
    """After an end by divergence the run goes on with a lower learning rate, and says so."""
    spoil(lambda number: number in (3, 4, 5, 6))
    said = []
    with pytest.raises(DivergenceError):
        run(tmp_path)
    slower = OptimizerConfig(warmup_steps=0, learning_rate=1e-3)
    spoil(lambda number: False)
    outcome = training.train(
        config(optimizer=slower), tmp_path / "run", resume=True, say=said.append
    )
    assert outcome.step == 6
    assert any("another optimizer.learning_rate: 0.003 -> 0.001" in line for line in said)
