"""A checkpoint of some devices goes on with others, at the same batch over all of them."""

import dataclasses

import jax
import numpy as np
import pytest

from deqjax import training
from deqjax.training import PenaltyConfig, read_metrics
from tiny import tiny_config


def config(tmp_path, steps):
    """Streams with memory; no dropout and no penalty, whose draws belong to a device's number."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question: " * 60)
    base = tiny_config(
        tmp_path / "datasets",
        steps=steps,
        log_every=1,
        checkpoint_every=1,
        penalty=PenaltyConfig(0.0),
        # not Adam, which makes the rounding of a small gradient as large as the step
        optimizer=training.OptimizerConfig(
            kind="sgd", learning_rate=0.1, warmup_steps=0, final_fraction=1.0
        ),
    )
    shape = dataclasses.replace(base.model.shape, memory_length=6, dropout=0.0)
    solver = dataclasses.replace(base.model.solver, adjoint="jacobian_free", method="picard")
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, shape=shape, solver=solver),
        data=dataclasses.replace(
            base.data, corpus="text_characters", file=str(tmp_path / "text.txt"), order="streams"
        ),
        evaluation=dataclasses.replace(base.evaluation, every=100),
    )


def train(tmp_path, name, steps, devices):
    folder = tmp_path / name
    outcome = training.train(
        config(tmp_path, steps),
        folder,
        resume=folder.exists(),
        devices=jax.local_devices()[:devices],
        say=lambda line: None,
    )
    records = read_metrics(outcome.workdir.metrics)
    return [r["loss"] for r in records if r["split"] == "train"]


def test_four_then_one_then_two_devices_train_as_one(tmp_path):
    expected = train(tmp_path, "one", 3, 1)
    for steps, devices in ((1, 4), (2, 1), (3, 2)):
        found = train(tmp_path, "several", steps, devices)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    states = [training.load_run(tmp_path / name).state for name in ("one", "several")]
    memories = [state.memory for state in states]
    np.testing.assert_allclose(memories[1].states, memories[0].states, rtol=0, atol=1e-5)
    assert [int(state.step) for state in states] == [3, 3]


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    with pytest.raises(training.ReplicaError, match="cannot be shared evenly by 3 devices"):
        train(tmp_path, "three", 1, 3)
