import dataclasses
import json
import signal

import jax
import numpy as np
import pytest

from deqjax import training
from deqjax.training import Checkpoints, ConfigError, WorkdirError, read_metrics
from deqjax.training.interrupts import StopRequest
from tiny import tiny_config


def silent(line):
    del line


def saved_state(workdir):
    run = training.load_run(workdir)
    return [
        np.asarray(
            jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for x in jax.tree.leaves(run.state)
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_directory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return training.train(tiny_config(data_directory), folder, say=silent)


def test_run_leaves_its_records(uninterrupted):
    folder = uninterrupted.workdir
    records = read_metrics(folder.metrics)
    assert [(r["step"], r["split"]) for r in records] == [
        (2, "train"),
        (2, "validation"),
        (4, "train"),
        (4, "validation"),
    ]
    assert folder.picture.stat().st_size > 1000
    assert list(folder.events.iterdir())
    assert json.loads(folder.config.read_text())["experiment"] == "tiny"


def test_final_metrics_hold_model_and_bigram(uninterrupted):
    metrics = uninterrupted.metrics
    assert 0 < metrics["bigram_bits_per_byte"] < 8
    assert 0 < metrics["bits_per_byte"] < 12
    assert 0 < metrics["spectral_radius"] <= metrics["spectral_radius_max"]
    assert metrics["tokens_scored"] == 2 * 4 * 8


def train_interrupted(config, folder):
    """Stop in the third step as if by Ctrl-C, then go on."""
    asked = []

    class StopAfterThree(StopRequest):
        """As if Ctrl-C had come during the third step."""

        def __enter__(self):
            asked.append(self)
            return super().__enter__()

    steps = training.parallel.DataParallel.train
    count = iter(range(10))

    def counted(self, state, batch, **options):
        if next(count) == 2:
            asked[-1].signal = signal.SIGINT
        return steps(self, state, batch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.training.loop.StopRequest", StopAfterThree)
        patch.setattr("deqjax.training.parallel.DataParallel.train", counted)
        stopped = training.train(config, folder, say=silent)
    assert (stopped.step, stopped.stopped_by, stopped.metrics) == (3, signal.SIGINT, None)
    resumed = training.train(config, folder, resume=True, say=silent)
    assert resumed.step == 4
    return resumed


def assert_same_end(resumed, whole):
    expected = saved_state(whole.workdir.path)
    for a, b in zip(saved_state(resumed.workdir.path), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.metrics == whole.metrics


def test_resumed_run_reaches_the_same_state_bit_for_bit(tmp_path, data_directory, uninterrupted):
    resumed = train_interrupted(tiny_config(data_directory), tmp_path / "run")
    assert_same_end(resumed, uninterrupted)


def test_a_resumed_run_remembers_its_segments(tmp_path):
    """Streams of characters with memory, the first step of them in the warm-up stage."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question: " * 60)
    config = tiny_config(tmp_path / "datasets", pretrain_steps=1)
    shape = dataclasses.replace(config.model.shape, memory_length=6)
    file = str(tmp_path / "text.txt")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, shape=shape),
        data=dataclasses.replace(config.data, corpus="text_characters", file=file, order="streams"),
    )
    whole = training.train(config, tmp_path / "whole", say=silent)
    assert_same_end(train_interrupted(config, tmp_path / "run"), whole)
    memory = training.load_run(tmp_path / "run").state.memory
    np.testing.assert_array_equal(memory.filled, [6, 6, 6, 6])
    assert np.abs(memory.states).max() > 0
    assert 1 < whole.metrics["loss"] < 10
    assert "bits_per_byte" not in whole.metrics


def arriving_after(looks):
    """A StopRequest that is not there at the loop's first looks, and is at every later one."""
    readings = iter([None] * looks)

    class Arriving(StopRequest):
        @property
        def signal(self):
            return next(readings, signal.SIGINT)

        @signal.setter
        def signal(self, value):
            del value

    return Arriving


def test_signal_at_any_moment_of_a_step_leaves_a_checkpoint(tmp_path, data_directory):
    config = tiny_config(data_directory, checkpoint_every=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.training.loop.StopRequest", arriving_after(1))
        outcome = training.train(config, tmp_path / "run", say=silent)
    saved = [int(folder.name) for folder in outcome.workdir.checkpoints.iterdir()]
    assert saved == [outcome.step]


def test_signal_in_the_last_step_does_not_cost_the_final_evaluation(tmp_path, data_directory):
    config = tiny_config(data_directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqjax.training.loop.StopRequest", arriving_after(config.steps - 1))
        outcome = training.train(config, tmp_path / "run", say=silent)
    assert outcome.step == config.steps
    assert outcome.metrics is not None
    assert outcome.stopped_by == signal.SIGINT


def test_resume_without_data_position_is_noticed(tmp_path, data_directory, uninterrupted):
    # the mutant that must not pass the test above: a run that forgets where its data were
    restore = Checkpoints.restore

    def forgetful(self, state, iterator=None, step=None):
        del iterator
        return restore(self, state, None, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "restore", forgetful)
        train_interrupted(tiny_config(data_directory), tmp_path / "run")
    expected = saved_state(uninterrupted.workdir.path)
    pairs = zip(saved_state(tmp_path / "run"), expected, strict=True)
    assert any((a != b).any() for a, b in pairs)


def test_finished_run_does_not_start_again(data_directory, uninterrupted):
    with pytest.raises(ConfigError, match="raise --steps above 4"):
        training.train(
            tiny_config(data_directory), uninterrupted.workdir.path, resume=True, say=silent
        )


def test_used_folder_is_not_overwritten(data_directory, uninterrupted):
    with pytest.raises(WorkdirError, match="--resume"):
        training.train(tiny_config(data_directory), uninterrupted.workdir.path, say=silent)


def test_other_experiments_folder_is_refused(data_directory, uninterrupted):
    with pytest.raises(WorkdirError, match="tiny"):
        training.train(
            tiny_config(data_directory, name="other"),
            uninterrupted.workdir.path,
            resume=True,
            say=silent,
        )


def test_explicit_baseline_trains(tmp_path, data_directory):
    config = tiny_config(data_directory, steps=2)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, kind="transformer_xl")
    )
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
        pieces = training.generate_text(
            uninterrupted.workdir.path, "def ", count=12, temperature=1.0, seed=seed
        )
        return "".join(pieces)

    assert text(0) == text(0)
    assert text(0) != text(1)


def test_evaluating_an_empty_folder_says_so(tmp_path):
    with pytest.raises(WorkdirError, match="no run"):
        training.evaluate_run(tmp_path)


def test_interrupts_restore_the_users_handler():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGTERM)
            assert request.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_second_ctrl_c_acts_at_once():
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
