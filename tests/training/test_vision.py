"""Training image models: batches, scores, statistics over devices, whole runs."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from deqjax import data, training
from deqjax.training import ConfigError
from deqjax.training._config import PenaltyConfig, check
from deqjax.training._run import assemble, build
from deqjax.training._scoring import score
from deqjax.training._stored_config import from_dict, to_dict
from deqjax.training._vision import Batch, VisionTask, forward, intersections
from deqjax.training.devices import _parallel
from deqjax.training.devices._parallel import DataParallel
from deqjax.training.step._problem import SolveLimits
from deqjax.training.step._state import split
from deqjax.training.step._update import train_step
from tiny_vision import tiny_vision

KINDS = pytest.mark.parametrize("kind", ["mdeq", "resdeq", "resnet"])


def silent(line):
    pass


def batch(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(rows, 8, 8, 1)).astype(np.float32)
    return Batch(images, rng.integers(0, 10, rows).astype(np.int32), np.ones(rows, bool))


class Fixed(nnx.Module):
    """A model whose logits are given."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits)

    def __call__(self, images, **options):
        from deqjax.models import ImagePrediction

        return ImagePrediction(self.logits, ())


@jax.jit
def seen(logits, given):
    """What the forward pass makes of given logits."""
    return forward(Fixed(logits), given, None, ())


# losses and counts


def test_the_loss_is_the_mean_over_what_counts():
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    labels, counted = np.array([1, 6, 0, 3]), np.array([True, True, False, True])
    found = seen(logits, Batch(jnp.zeros((4, 8, 8, 1)), labels, counted))
    nats = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[range(4), labels]
    np.testing.assert_allclose(found.loss, nats[counted].mean(), rtol=1e-5)
    assert found.scored == 3


def test_hits_are_labels_with_fewer_ahead_of_them():
    logits = np.array([[3, 2, 1, 0, -1, -2.0], [0, 1, 2, 3, 4, 5], [0, 9, 0, 0, 0, 0]])
    labels, counted = np.array([0, 0, 1]), np.array([True, True, True])
    counts = seen(logits, Batch(jnp.zeros((3, 8, 8, 1)), labels, counted)).counts
    assert counts == {"top1": 2, "top5": 2}


def test_logits_that_are_not_finite_or_all_alike_hit_nothing():
    logits = np.zeros((3, 7), np.float32)
    logits[1] = np.nan
    logits[2, 3] = np.inf
    labels = np.array([6, 0, 3])
    given = Batch(jnp.zeros((3, 8, 8, 1)), labels, np.ones(3, bool))
    # the infinite one is the first; of seven equals the last is not among the first five
    assert seen(logits, given).counts == {"top1": 1, "top5": 1}


def test_pixels_whose_logits_are_not_finite_are_taken_for_nothing():
    logits = np.zeros((1, 1, 4, 2), np.float32)
    logits[0, 0, :2] = np.nan
    given = Batch(jnp.zeros((1, 1, 4, 3)), np.zeros((1, 1, 4), np.int32), np.array([True]))
    found = seen(logits, given)
    np.testing.assert_array_equal(found.counts["confusion"], [[2, 0, 2], [0, 0, 0]])
    scores = intersections(np.asarray(found.counts["confusion"]), ("road", "car"))
    assert scores["iou/road"] == 0.5


def test_pixels_that_are_ignored_count_nowhere():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 4))
    labels[:, 0] = data.IGNORE_LABEL
    given = Batch(jnp.zeros((2, 4, 4, 3)), jnp.asarray(labels), np.array([True, False]))
    found = seen(logits, given)
    taken = logits.argmax(-1)[0, 1:].ravel()
    expected = np.zeros((3, 4))
    np.add.at(expected, (labels[0, 1:].ravel(), taken), 1)
    np.testing.assert_array_equal(found.counts["confusion"], expected)
    assert found.scored == 12
    assert np.isfinite(found.loss)


def test_logits_are_enlarged_to_the_labels():
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[:, :, 1, 1] = 4
    labels = np.zeros((1, 4, 4), np.int32)
    counts = seen(logits, Batch(jnp.zeros((1, 4, 4, 3)), labels, np.array([True]))).counts
    # class 1 has 4/3 and more beside class 0's 0 from the second column on
    np.testing.assert_array_equal(counts["confusion"], [[4, 12, 0], [0, 0, 0]])


def test_intersection_over_union_leaves_out_classes_that_never_occur():
    confusion = np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0]])
    found = intersections(confusion, ("road", "car", "sky"))
    assert found["iou/road"] == pytest.approx(3 / 6)
    assert found["iou/car"] == pytest.approx(4 / 7)
    assert np.isnan(found["iou/sky"])
    assert found["mean_iou"] == pytest.approx((3 / 6 + 4 / 7) / 2)


# steps


def quick(kind="resdeq", **changes):
    """With the shortest step to compile: no test of a step here is about the solver."""
    model = tiny_vision(kind).model
    solver = dataclasses.replace(model.solver, method="picard", adjoint="jacobian_free")
    # statistics are outside of the branches
    shape = dataclasses.replace(model.mdeq, channels=(4,), head_channels=(2,))
    return tiny_vision(kind, model=dataclasses.replace(model, solver=solver, mdeq=shape), **changes)


@functools.cache
def started(kind):
    """Problem and first state: drawing initial values compiles much."""
    config = quick(kind, penalty=PenaltyConfig(weight=0.0))
    return assemble(config, 8, axis_name=_parallel.AXIS)


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
    uneven = batch()._replace(
        labels=np.where(np.isin(np.arange(8), [0, 1, 2, 3, 4, 6]), batch().labels, 255)
    )
    moved = []
    for devices in (1, 2):
        steps = DataParallel(problem, 8, jax.local_devices()[:devices])
        _, metrics, _ = steps.train(steps.place(state), uneven)
        moved.append(_parallel.first_replica(metrics))
    for name in ("loss", "gradient_norm"):
        assert moved[1][name] == pytest.approx(moved[0][name], rel=1e-4), name


def test_the_warm_up_stage_has_its_own_penalty():
    penalty = PenaltyConfig(weight=0.0, probability=1.0, pretrain_weight=0.5)
    problem, state = assemble(quick(penalty=penalty), 8, axis_name=_parallel.AXIS)
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
    problem, state = assemble(quick(penalty=penalty), 8, axis_name=_parallel.AXIS)
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
    alike, other = (score(found.config, found.steps, weights, [each]) for each in (first, filled))
    # a row's radius has random numbers of its own, so only the number of radii can be compared
    names = alike.metrics.keys() - {"spectral_radius", "spectral_radius_max"}
    assert names >= {"forward_steps", "forward_residual", "forward_converged"}
    for name in names:
        assert other.metrics[name] == pytest.approx(alike.metrics[name], rel=1e-5), name
    limits = SolveLimits(1e-3, 4)
    radii = found.steps.radius(weights, filled, None, limits, jax.random.key(0))
    assert radii.shape == (4,)
    # printed, a run is a few words, not its arrays
    assert repr(found).startswith(f"Run(run: {found.config.name} (VisionConfig); step: 0 of ")
    assert len(repr(found)) < 200
    assert "<table>" in found._repr_html_()


# runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return training.train(tiny_vision(), tmp_path_factory.mktemp("vision") / "run", say=silent)


def test_a_run_scores_its_images(run):
    metrics = run.metrics
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 1
    assert metrics["labels_scored"] == 24
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
        training.generate_text(run.workdir.path, "a", count=1)


def test_a_classifier_has_no_overlays(run, tmp_path):
    with pytest.raises(ConfigError, match="no model that segments"):
        training.write_overlays(run.workdir.path, tmp_path)


def test_every_image_of_a_split_is_scored_once():
    config = tiny_vision("resnet", evaluation=tiny_vision().evaluation)
    found = build(config)
    weights = found.steps.replicate(found.state.weights)
    metrics = found.task.evaluate(found.steps, weights, "test", batches=10_000)
    assert metrics["labels_scored"] == len(found.task.images.test)


# configurations


def test_a_configuration_survives_json():
    config = tiny_vision("mdeq")
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (tiny_vision("resnet", pretrain_steps=3), "resnet solves nothing"),
        (tiny_vision(data=dataclasses.replace(tiny_vision().data, images="cityscapes")), "segment"),
        (tiny_vision(data=dataclasses.replace(tiny_vision().data, resolution=0)), "resolution"),
        (
            tiny_vision(data=dataclasses.replace(tiny_vision().data, images="folder")),
            "--data.images folder needs the folder of your images: give --data.directory",
        ),
    ],
    ids=["resnet", "task", "resolution", "folder"],
)
def test_what_cannot_work_is_refused(config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check(config)


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("resdeq", {"input_channels": 3}, r"has 1 channel\(s\), but the model takes 3"),
        ("resdeq", {"pooled_grid": 3}, "features of 8 x 8, which cannot be divided into pooled"),
        ("mdeq", {"downsample_times": 3}, "must be multiples of 16"),
    ],
    ids=["channels", "grid", "multiple"],
)
def test_a_model_that_does_not_take_the_images_is_refused(kind, change, sentence):
    config = tiny_vision(kind)
    name = "mdeq" if kind == "mdeq" else "residual"
    shape = dataclasses.replace(getattr(config.model, name), **change)
    model = dataclasses.replace(config.model, **{name: shape})
    with pytest.raises(ConfigError, match=sentence):
        build(dataclasses.replace(config, model=model))


def test_a_model_with_other_classes_than_the_data_is_refused():
    config = tiny_vision()
    shape = dataclasses.replace(config.model.residual, classes=7)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, residual=shape))
    with pytest.raises(ConfigError, match="has 10 classes, but the model tells 7 apart"):
        build(config)


def test_a_run_takes_images_of_ones_own(tmp_path):
    for number, name in enumerate(("ant", "bee")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for shade in range(12):
            path = tmp_path / "train" / name / f"{shade}.png"
            Image.new("L", (8, 8), 100 * number + shade).save(path)
    config = tiny_vision("resnet")
    shape = dataclasses.replace(config.model.residual, classes=2)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, residual=shape),
        data=dataclasses.replace(config.data, images="folder", directory=str(tmp_path)),
    )
    found = VisionTask(from_dict(to_dict(config)))
    assert found.images.class_names == ("ant", "bee")
    assert next(found.batches).images.shape == (8, 8, 8, 1)


def test_a_run_of_unknown_images_is_refused():
    data_config = dataclasses.replace(tiny_vision().data, images="no_such_set")
    with pytest.raises(data.DataError, match="there is no image data set 'no_such_set': choose"):
        VisionTask(tiny_vision(data=data_config))


def test_statistics_are_no_parameters():
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    _, weights = split(model, "devices")
    assert len(jax.tree.leaves(weights.parameters)) == len(jax.tree.leaves(weights.statistics)) == 2
    assert split(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))[1].statistics is None
