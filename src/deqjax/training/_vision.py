"""From a configuration to the model, the data and the scores of an image model."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from deqjax import data
from deqjax.adjoints import BackwardStats
from deqjax.data import ImageSet
from deqjax.models import MDEQ, ImageModel, ResDEQ, ResNet
from deqjax.nn import resize_bilinear
from deqjax.training._config import ConfigError
from deqjax.training._scoring import score
from deqjax.training._task import Rows, Task, TrainBatches
from deqjax.training._vision_config import ImageModelConfig, VisionConfig
from deqjax.training.devices import DataParallel
from deqjax.training.step import Forward, Metrics, SolveLimits, Weights


class Batch(NamedTuple):
    """One device's images; on the host, those of all its devices.

    Attributes:
        images: (rows, height, width, channels) float32, normalized.
        labels: (rows,) int32, or (rows, height, width) for every pixel.
        counted: (rows,) bool, images that count; the others only fill the batch.
    """

    images: Rows
    labels: Rows
    counted: Rows


def build_model(config: ImageModelConfig, seed: int) -> ImageModel:
    """The configured model, freshly initialized.

    Raises:
        ConfigError: sizes that do not go together.
    """
    rngs = nnx.Rngs(seed)
    try:
        match config.kind:
            case "mdeq":
                return MDEQ(config.mdeq, config.solver, rngs=rngs)
            case "resdeq":
                return ResDEQ(config.residual, config.solver, rngs=rngs)
            case "resnet":
                return ResNet(config.residual, config.depth, rngs=rngs)
    except ValueError as error:
        raise ConfigError(f"--model: {error}") from error


def classes_of(config: ImageModelConfig) -> int:
    """What the configured model tells apart."""
    return config.mdeq.classes if config.kind == "mdeq" else config.residual.classes


def channels_of(config: ImageModelConfig) -> int:
    """Of the images that the configured model takes."""
    shape = config.mdeq if config.kind == "mdeq" else config.residual
    return shape.input_channels


def targets(batch: Batch) -> jax.Array:
    """The number of labels that count, () float32."""
    return jnp.sum(_counted(batch), dtype=jnp.float32)


def _counted(batch: Batch) -> jax.Array:
    """Which labels count, of the labels' shape: of images that do, and not to be ignored."""
    ignored = batch.labels == data.IGNORE_LABEL
    own: jax.Array = jnp.expand_dims(batch.counted, tuple(range(1, ignored.ndim))) & ~ignored
    return own


def forward(
    model: ImageModel,
    batch: Batch,
    memory: None,
    probes: tuple[BackwardStats, ...],
    **options: Any,
) -> Forward:
    """Classify the images of a batch, or their pixels; the loss is in nats per label."""
    prediction = model(batch.images, probes=probes, **options)
    logits = prediction.logits
    if batch.labels.ndim > 1:
        logits = resize_bilinear(logits, *batch.labels.shape[1:3])
    counted = _counted(batch)
    labels = jnp.where(batch.labels == data.IGNORE_LABEL, 0, batch.labels)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    total = targets(batch)
    loss = jnp.sum(jnp.where(counted, nats, 0)) / jnp.maximum(total, 1)
    counts = (_confusion if labels.ndim > 1 else _hits)(logits, labels, counted)
    return Forward(
        loss, total, counts, batch.counted, prediction.equilibria, None, prediction.unrolled
    )


def _hits(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Metrics:
    """How often the label is the first, and among the first five."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    # among equals the lower class is first, as argmax has it; nothing is behind a NaN
    ties = (logits == own) & (jnp.arange(logits.shape[-1]) < labels[:, None])
    ahead = jnp.sum(~(logits <= own) | ties, axis=1)
    return {
        name: jnp.sum((ahead < places) & counted, dtype=jnp.int32)
        for name, places in (("top1", 1), ("top5", 5))
    }


def _confusion(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Metrics:
    """(classes, classes + 1) int32: pixels of the row's class that were taken for the column's.

    The last column counts pixels whose logits are not all finite, which are taken for nothing.
    """
    classes = logits.shape[-1]
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    found = jnp.where(finite, jnp.argmax(logits, axis=-1), classes)
    pairs = labels * (classes + 1) + found
    counts = jnp.bincount(
        pairs.ravel(), weights=counted.ravel().astype(jnp.int32), length=classes * (classes + 1)
    )
    return {"confusion": counts.reshape(classes, classes + 1)}


def _check_images(config: VisionConfig, images: ImageSet) -> None:
    """Raise a ConfigError unless the model takes the data's images."""
    channels = images.shape[-1]
    if channels_of(config.model) != channels:
        raise ConfigError(
            f"--data.images {config.data.images} has {channels} channel(s), but the model takes "
            f"{channels_of(config.model)}; set its input_channels to {channels}."
        )
    shape = config.model.mdeq if config.model.kind == "mdeq" else config.model.residual
    augmentation = config.data.augmentation
    for height, width in {
        augmentation.training_size(images.shape[:2]),
        augmentation.evaluation_size(images.shape[:2]),
    }:
        try:
            if height is not None and width is not None:
                shape.check_size(height, width)
        except ValueError as error:
            raise ConfigError(f"--data: {error}") from error


class ImageBatches(TrainBatches):
    """Training images, shuffled and augmented."""

    def __init__(self, config: VisionConfig, images: ImageSet) -> None:
        self.iterator = data.image_train_batches(
            images,
            batch_size=config.data.batch_size,
            seed=config.seed,
            augmentation=config.data.augmentation,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.data.threads,
            workers=config.data.workers,
        )

    def __next__(self) -> Batch:
        """The next batch, on the host."""
        found = next(self.iterator)
        return Batch(found.images, found.labels, np.ones(len(found.labels), bool))


class VisionTask(Task):
    """A set of images, and accuracies or intersections over unions on it."""

    speed = "images_per_second"

    def __init__(self, config: VisionConfig) -> None:
        self.config = config
        chosen = config.data
        of_yours = chosen.images == "folder"
        self.images = data.load_images(
            chosen.images,
            folder=chosen.directory if of_yours else None,
            directory=None if of_yours else chosen.directory,
            manual_directory=chosen.manual_directory,
            resolution=chosen.resolution,
            limit_train=chosen.limit_train,
            limit_seed=config.seed,
        )
        classes = len(self.images.class_names)
        _check_images(config, self.images)
        if classes_of(config.model) != classes:
            raise ConfigError(
                f"--data.images {chosen.images} has {classes} classes, but the model tells "
                f"{classes_of(config.model)} apart; set its classes to {classes}."
            )
        self.batches = ImageBatches(config, self.images)
        self.fingerprint = data.image_fingerprint(
            self.images,
            batch_size=chosen.batch_size,
            seed=config.seed,
            augmentation=chosen.augmentation,
            workers=chosen.workers,
        )
        self.examples = chosen.batch_size

    def describe(self) -> str:
        """The number of training images."""
        return f"{len(self.images.train):,} training images"

    def in_units(self, loss: float) -> dict[str, float]:
        """As it is, in nats per label."""
        return {"loss": loss}

    def evaluation_batches(
        self, split: str, *, rows: int, batches: int | None, process: int = 0, processes: int = 1
    ) -> Iterator[Batch]:
        """One process's share of a pass; what fills up the last batches does not count."""
        for found in data.image_evaluation_batches(
            self.images,
            split,
            batch_size=rows,
            limit=batches,
            augmentation=self.config.data.augmentation,
            threads=self.config.data.threads,
            process_index=process,
            process_count=processes,
        ):
            yield Batch(found.images, found.labels, found.counted)

    def evaluate(
        self,
        steps: DataParallel,
        weights: Weights,
        split: str,
        *,
        batches: int,
        limits: SolveLimits | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Score a model on a split; see `Task`.

        Found are "top1" and "top5" accuracy, or of segmentations "mean_iou" and for each class
        "iou/NAME", and "labels_scored".
        """
        taken = self.evaluation_batches(
            split,
            rows=self.config.data.batch_size,
            batches=batches,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        scores = score(self.config, steps, weights, taken, limits=limits, progress=progress)
        found = scores.metrics | self.in_units(scores.loss)
        total = found["labels_scored"] = scores.scored
        if "confusion" in scores.counts:
            return found | intersections(scores.counts["confusion"], self.images.class_names)
        return found | {name: float(scores.counts[name]) / total for name in ("top1", "top5")}


def intersections(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Intersection over union of each class, and their mean over the classes that occur.

    Args:
        confusion: (classes, classes + 1), pixels of the row's class that were taken for the
            column's; the last column is of those that were taken for nothing.
        names: of the classes.
    """
    hits = np.diag(confusion)
    union = confusion.sum(axis=0)[:-1] + confusion.sum(axis=1) - hits
    values = hits / np.where(union > 0, union, np.nan)
    return {"mean_iou": float(np.nanmean(values))} | {
        f"iou/{name}": float(value) for name, value in zip(names, values, strict=True)
    }
