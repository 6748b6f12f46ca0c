"""Which metrics of a run are scores of its task, and what they are called."""

from collections.abc import Iterable

_MEASURED = ("forward_", "backward_", "spectral_radius", "host_memory_", "device_memory_")
"""How those begin that the engine measures of any task."""

_OTHERS = frozenset(
    (
        "step",
        "split",
        "event",
        "state_hash",
        "loss",
        "scored",
        "tolerance",
        "penalty",
        "gradient_norm",
        "learning_rate",
        "skipped",
        "data_wait",
    )
)

_KNOWN = {
    "bits_per_byte": ("bits per byte", ".4f"),
    "bigram_bits_per_byte": ("bits per byte of a bigram model, same bytes", ".4f"),
    "perplexity": ("perplexity", ".4g"),
    "bigram_perplexity": ("perplexity of a bigram model, same tokens", ".4g"),
    "bigram_loss": ("loss of a bigram model, same tokens", ".4f"),
    "top1": ("accuracy", ".2%"),
    "top5": ("label among the first five", ".2%"),
    "mean_iou": ("mean intersection over union", ".4f"),
}


def scores(metrics: Iterable[str], loss: str = "loss") -> list[str]:
    """Those of a run's metrics that its task scores besides the loss, in the order of the metrics.

    All are that the engine does not measure of any task, but for those of single classes, whose
    names have a "/". A loss that is given in bits per byte is not given in nats again.

    Args:
        metrics: names of a record's.
        loss: the one that is the run's loss.
    """
    names = list(dict.fromkeys(metrics))
    in_bits = {name.removesuffix("bits_per_byte") + "loss" for name in names if _is_bits(name)}
    return [
        name
        for name in names
        if is_score(name) and "/" not in name and name != loss and name not in in_bits
    ]


def class_scores(metrics: Iterable[str]) -> list[str]:
    """Those of a run's metrics that its task scores for single classes, such as "iou/road"."""
    return [name for name in metrics if is_score(name) and "/" in name]


def throughput(metrics: Iterable[str]) -> str | None:
    """The metric that is what a task counts each second, such as "tokens_per_second"."""
    speeds = (name for name in metrics if name.endswith("_per_second"))
    return next((name for name in speeds if name != "steps_per_second"), None)


def words_of_score(name: str) -> tuple[str, str]:
    """What a score is called, and the form of its values, as `format` takes it."""
    return _KNOWN.get(name, (name.replace("_", " "), ".4g"))


def is_score(name: str) -> bool:
    """Whether a metric is a task's own: not the loss, nor what the engine measures of any task."""
    measured = name.startswith(_MEASURED) or name.endswith("_per_second")
    return not measured and name not in _OTHERS


def _is_bits(name: str) -> bool:
    return name.endswith("bits_per_byte")
