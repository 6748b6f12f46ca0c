"""What is counted of predicted classes, and the scores made of it."""

import jax
import jax.numpy as jnp
import numpy as np


def hits(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Whether the label is the first, and among the first five, (rows,) bool each."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    # among equals the lower class is first, as argmax has it; nothing is behind a NaN
    ties = (logits == own) & (jnp.arange(logits.shape[-1]) < labels[:, None])
    ahead = jnp.sum(~(logits <= own) | ties, axis=1)
    return {name: ahead < places for name, places in (("top1", 1), ("top5", 5))}


def confusion(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> jax.Array:
    """(rows, classes, classes + 1) int32: pixels of a class that were taken for the column's.

    The last column counts pixels whose logits are not all finite, which are taken for nothing.
    """
    classes = logits.shape[-1]
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    found = jnp.where(finite, jnp.argmax(logits, axis=-1), classes)
    pairs = labels * (classes + 1) + found

    def of_image(pairs: jax.Array, counted: jax.Array) -> jax.Array:
        ones = counted.ravel().astype(jnp.int32)
        return jnp.bincount(pairs.ravel(), weights=ones, length=classes * (classes + 1))

    counts: jax.Array = jax.vmap(of_image)(pairs, counted)
    return counts.reshape(-1, classes, classes + 1)


def intersections(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Intersection over union of each class, and their mean over the classes that occur.

    Args:
        confusion: (classes, classes + 1), pixels of the row's class that were taken for the
            column's; the last column is of those that were taken for nothing.
        names: of the classes.
    """
    diagonal = np.diag(confusion)
    union = confusion.sum(axis=0)[:-1] + confusion.sum(axis=1) - diagonal
    values = diagonal / np.where(union > 0, union, np.nan)
    return {"mean_iou": float(np.nanmean(values))} | {
        f"iou/{name}": float(value) for name, value in zip(names, values, strict=True)
    }
