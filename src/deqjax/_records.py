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


def loss_unit(records: Iterable[Record]) -> tuple[str, str]:
    """The metric that is a run's loss as people compare it, and its unit.

    A loss has no unit, "", unless all that have it give it in bits per byte.
    """
    with_loss = [each for each in records if {"loss", "bits_per_byte"} & set(each)]
    if with_loss and all("bits_per_byte" in each for each in with_loss):
        return "bits_per_byte", "bits per byte"
    return "loss", ""
