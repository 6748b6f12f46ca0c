"""Pictures of segmentations: each image with its predicted classes laid over it."""

import colorsys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deqjax import data
from deqjax.nn import resize_bilinear
from deqjax.training._config import ConfigError
from deqjax.training._finished import Which, load_run, solve_limits
from deqjax.training._vision import VisionTask
from deqjax.training.step import Weights


def write_overlays(
    workdir: Path | str,
    folder: Path | str,
    *,
    split: str = "validation",
    count: int = 8,
    checkpoint: Which = "newest",
    max_steps: int | None = None,
    tol: float | None = None,
) -> list[Path]:
    """Write pictures of a split's first images: the image, the labels, the prediction.

    Args:
        workdir: the run's folder.
        folder: for the PNG files; created.
        split: "train", "validation" or "test".
        count: images at most.
        checkpoint: which one; see [`deqjax.training.load_run`][].
        max_steps: forward steps at most, instead of the run's.
        tol: relative tolerance, instead of the run's.

    Returns:
        The files, one an image, its three parts side by side.

    Raises:
        ConfigError: the run's model does not segment images, or a limit makes no sense.
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run.
    """
    from PIL import Image

    run = load_run(workdir, checkpoint)
    if not isinstance(run.task, VisionTask) or run.task.images.task != "segmentation":
        raise ConfigError(f"{workdir} holds no model that segments images; leave --overlays out.")
    images, architecture = run.task.images, run.steps.problem.architecture
    limits = solve_limits(run.config, max_steps=max_steps, tol=tol)

    @jax.jit
    def classes(weights: Weights, pixels: jax.Array) -> jax.Array:
        model = architecture.build(weights, train=False)
        logits = model(pixels, tol=limits.tol, max_steps=limits.max_steps).logits
        return jnp.argmax(resize_bilinear(logits, *pixels.shape[1:3]), axis=-1)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    colors = palette(len(images.class_names))
    for batch in run.task.evaluation_batches(split, rows=1, batches=None):
        if len(files) == count:
            break
        pixels = (batch.images[0] * images.std + images.mean) / 255
        parts = [
            pixels,
            overlay(pixels, batch.labels[0], colors),
            overlay(
                pixels,
                np.asarray(classes(run.state.evaluated, jnp.asarray(batch.images)))[0],
                colors,
            ),
        ]
        picture = np.clip(np.concatenate(parts, axis=1), 0, 1)
        files.append(folder / f"{split}_{len(files):04d}.png")
        Image.fromarray((255 * picture).round().astype(np.uint8)).save(files[-1], optimize=True)
    return files


def overlay(pixels: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Half an image, half the colors of its labels; ignored pixels stay as they are.

    Args:
        pixels: (height, width, 3) in [0, 1].
        labels: (height, width) integers.
        colors: (classes, 3) in [0, 1].
    """
    known = labels != data.IGNORE_LABEL
    mixed = 0.5 * pixels + 0.5 * colors[np.where(known, labels, 0)]
    result: np.ndarray = np.where(known[..., None], mixed, pixels)
    return result


def palette(classes: int) -> np.ndarray:
    """(classes, 3) colors in [0, 1], neighbors far apart."""
    golden = (5**0.5 - 1) / 2
    return np.array(
        [colorsys.hsv_to_rgb(golden * i % 1, 0.65 + 0.3 * (i % 2), 0.95) for i in range(classes)]
    )
