"""Pictures of segmentations: each image with its predicted classes laid over it."""

import colorsys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax import data
from deqjax.nn import observe, resize_bilinear
from deqjax.tasks.vision._task import VisionTask
from deqjax.training import BatchOrder, ConfigError, Which, load_run, solve_limits


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

    limits = solve_limits(max_steps=max_steps, tol=tol)
    run = load_run(workdir, checkpoint)
    if not isinstance(run.task, VisionTask) or not run.task.network.segments:
        raise ConfigError(f"{workdir} holds no model that segments images; leave --overlays out.")
    images, (graph, state) = run.task.found, nnx.split(run.model)

    @jax.jit
    def classes(state: nnx.State, pixels: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state, copy=True)
        with observe(model, tol=limits.tol, max_steps=limits.max_steps):
            logits = model(pixels).logits
        return jnp.argmax(resize_bilinear(logits, *pixels.shape[1:3]), axis=-1)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    colors = palette(len(images.class_names))
    for batch, _ in run.data.split(split).evaluate(BatchOrder(1)):
        if len(files) == count:
            break
        pixels = (batch.images[0] * images.std + images.mean) / 255
        parts = [
            pixels,
            overlay(pixels, batch.labels[0], colors),
            overlay(
                pixels,
                np.asarray(classes(state, jnp.asarray(batch.images)))[0],
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
