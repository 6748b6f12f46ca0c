"""What the records of a run are called, for those who write them and those who draw them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Record: TypeAlias = Mapping[str, Any]
"""A line of a run's `metrics.jsonl`: "step", "split" and metrics by name."""

_ROLLBACK = re.compile(r"\broll(ed|ing|s)?[ -]?back", re.IGNORECASE)


def is_rollback(record: Record) -> bool:
    """Whether a record is the event of a rollback."""
    return record["split"] == "event" and bool(_ROLLBACK.search(record["event"]))


def is_throughput(name: str) -> bool:
    """Whether a metric is what a task counts each second, such as "tokens_per_second"."""
    return name.endswith("_per_second") and name != "steps_per_second"


_TOLD_BY = {
    "nats per label": {"images_per_second", "top1", "mean_iou"},
    "nats per token": {"tokens_per_second", "perplexity", "bigram_loss"},
}


def loss_unit(records: Iterable[Record]) -> tuple[str, str]:
    """The metric that is a run's loss as people compare it, and its unit, "" if that is unknown."""
    found = list(records)
    if any("loss" in each and "bits_per_byte" not in each for each in found):
        names = {name for each in found for name in each}
        told = (unit for unit, by in _TOLD_BY.items() if by & names)
        return "loss", next(told, "")
    return "bits_per_byte", "bits per byte"
