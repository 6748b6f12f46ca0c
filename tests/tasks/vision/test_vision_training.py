"""Training image models: statistics over devices, whole runs."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from deqjax import training
from deqjax.tasks.language import generate_text
from deqjax.tasks.vision import write_overlays
from deqjax.tasks.vision._batches import LabelledImages
from deqjax.training import Batch, ConfigError, PenaltyConfig
from deqjax.training._run import assemble, build
from deqjax.training._scoring import evaluate
from deqjax.training.devices import _parallel
from deqjax.training.devices._parallel import DataParallel
from deqjax.training.step import OWN_LIMITS, SolveLimits, split, train_step
from tiny import with_parts
from tiny_vision import tiny_vision

KINDS = pytest.mark.parametrize("kind", ["mdeq", "resdeq", "resnet"])


def silent(line):
    pass


def batch(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(rows, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(0, 10, rows).astype(np.int32)
    return Batch(LabelledImages(images, labels), np.ones(rows, bool))


# steps


def quick(kind="resdeq", **changes):
    """With the shortest step to compile: no test of a step here is about the solver."""
    config = tiny_vision(kind, **changes)
    # statistics are outside of the branches
    shape = dataclasses.replace(config.task.network.mdeq, channels=(4,), head_channels=(2,))
    return with_parts(
        config,
        task__network__solver__method="picard",
        task__network__solver__adjoint="jacobian_free",
        task__network__mdeq=shape,
    )


def assembled(config):
    return assemble(config, config.task.opened(None), axis_name=_parallel.AXIS)


@functools.cache
def started(kind):
    """Problem and first state: drawing initial values compiles much."""
    config = quick(kind, penalty=PenaltyConfig(weight=0.0))
    return assembled(config)


@functools.cache
def stepped(kind, devices):
    """The state and metrics after a step on so many devices."""
    problem, state = started(kind)
    steps = DataParallel(problem, 8, jax.local_devices()[:devices])
    state, metrics, _ = steps.train(steps.place(state), batch())
    return steps.on_host(state), _parallel.first_replica(metrics)


@KINDS
def test_batch_statistics_are_those_of_all_devices_together(kind):
    (one, metrics), (two, metrics_of_two) = stepped(kind, 1), stepped(kind, 2)
    np.testing.assert_allclose(metrics_of_two["loss"], metrics["loss"], rtol=1e-4)
    for a, b in zip(*(jax.tree.leaves(x.weights.statistics) for x in (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@KINDS
def test_a_step_moves_parameters_and_statistics(kind):
    start = started(kind)[1].weights
    after = stepped(kind, 1)[0].weights
    for before, moved in (
        (start.parameters, after.parameters),
        (start.statistics, after.statistics),
    ):
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(moved), strict=True)
        assert np.mean([np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs]) > 0.9


def test_labels_weigh_the_same_on_any_number_of_devices():
    """One of two devices has four labels that count, the other two."""
    problem, state = started("resnet")
    images, labels = batch().rows
    known = np.isin(np.arange(8), [0, 1, 2, 3, 4, 6])
    uneven = Batch(LabelledImages(images, np.where(known, labels, 255)), np.ones(8, bool))
    moved = []
    for devices in (1, 2):
        steps = DataParallel(problem, 8, jax.local_devices()[:devices])
        _, metrics, _ = steps.train(steps.place(state), uneven)
        moved.append(_parallel.first_replica(metrics))
    for name in ("loss", "gradient_norm"):
        assert moved[1][name] == pytest.approx(moved[0][name], rel=1e-4), name


def test_the_warm_up_stage_has_its_own_penalty():
    penalty = PenaltyConfig(weight=0.0, probability=1.0, pretrain_weight=0.5)
    problem, state = assembled(quick(penalty=penalty))
    steps = DataParallel(problem, 8, jax.local_devices()[:1])
    state, warm, _ = steps.train(steps.place(state), batch(), pretraining=True)
    assert np.isfinite(warm["penalty"]).all()
    assert "forward_steps" not in warm
    first, own_batch = jax.tree.map(lambda leaf: leaf[0], (state, steps.share(batch())))
    step = functools.partial(train_step, problem)
    with_axis = jax.vmap(step, axis_name=_parallel.AXIS, axis_size=1, in_axes=None)
    _, solved, _ = jax.eval_shape(with_axis, first, own_batch)
    assert "forward_steps" in solved
    assert "penalty" not in solved


def test_the_penalty_ends_after_its_last_step():
    penalty = PenaltyConfig(weight=0.5, probability=1.0, last_step=1)
    problem, state = assembled(quick(penalty=penalty))
    steps = DataParallel(problem, 8, jax.local_devices()[:1])
    state, first, _ = steps.train(steps.place(state), batch())
    _, second, _ = steps.train(state, batch())
    assert np.isfinite(first["penalty"]).all()
    assert np.isnan(second["penalty"]).all()


def test_rows_that_only_fill_a_batch_count_in_no_statistic():
    found = build(tiny_vision())
    weights = found.steps.replicate(found.state.weights)
    whole = batch()
    first = jax.tree.map(lambda leaf: np.concatenate([leaf[:4], leaf[:4]]), whole)
    filled = whole._replace(counted=np.arange(8) < 4)
    alike, other = (
        _parallel.first_replica(found.steps.evaluate(weights, each, None, OWN_LIMITS)[0])
        for each in (first, filled)
    )
    assert (alike["scored"], other["scored"]) == (8, 4)
    names = {name for name in alike if name.startswith("forward_")} | {"loss"}
    assert names >= {"forward_steps", "forward_residual", "forward_converged"}
    for name in names:
        assert other[name] == pytest.approx(alike[name], rel=1e-5), name
    # a row's radius has random numbers of its own, so only the number of radii can be compared
    limits = SolveLimits(1e-3, 4)
    radii = found.steps.radius(weights, filled, None, limits, jax.random.key(0))
    assert radii.shape == (4,)
    # printed, a run is a few words, not its arrays
    assert repr(found).startswith(f"Run(run: {found.config.name} (VisionTask); step: 0 of ")
    assert len(repr(found)) < 200
    assert "<table>" in found._repr_html_()


# runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return training.train(tiny_vision(), tmp_path_factory.mktemp("vision") / "run", say=silent)


def test_a_run_scores_its_images(run):
    metrics = run.metrics
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 1
    assert metrics["scored"] == 24
    assert metrics["spectral_radius"] > 0
    assert metrics["loss"] > 0
    assert run.workdir.picture.exists()


def test_a_run_that_goes_on_from_its_middle_ends_like_one_that_was_not_stopped(run, tmp_path):
    shutil.copytree(run.workdir.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    resumed = training.train(tiny_vision(), tmp_path / "run", resume=True, say=silent)
    first, second = (training.load_run(x.workdir.path).state.weights for x in (run, resumed))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluating_a_run_repeats_its_scores(run):
    again = training.evaluate_run(run.workdir.path)
    assert again["top1"] == run.metrics["top1"]
    assert again["loss"] == pytest.approx(run.metrics["loss"], rel=1e-5)


def test_a_run_of_images_generates_no_text(run):
    with pytest.raises(ConfigError, match="holds no language model"):
        generate_text(run.workdir.path, "a", count=1)


def test_a_classifier_has_no_overlays(run, tmp_path):
    with pytest.raises(ConfigError, match="no model that segments"):
        write_overlays(run.workdir.path, tmp_path)


def test_every_image_of_a_split_is_scored_once():
    found = build(tiny_vision("resnet"))
    weights = found.steps.replicate(found.state.weights)
    metrics = evaluate(found, weights, "test", batches=10_000)
    assert metrics["scored"] == len(found.task.found.test)


def test_statistics_are_no_parameters():
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    _, weights = split(model, "devices")
    assert len(jax.tree.leaves(weights.parameters)) == len(jax.tree.leaves(weights.statistics)) == 2
    assert split(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))[1].statistics is None
