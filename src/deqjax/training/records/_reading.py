"""The records of a run, read back: a damaged line costs that record and no other."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

TEXTS = ("state_hash", "event")
"""The only values of a record that are no numbers, besides its split."""

_MEASUREMENT = re.compile(r".*_per_second|data_wait|.*_memory_gib")
_LAST_STEP = 2**63  # what any reader of a step can hold
_NAMED = 5  # lines that a sentence names one by one


class MetricsError(ValueError):
    """A record of metrics cannot be written, or the records cannot be read."""


def read_metrics(
    path: Path | str, *, say: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, oldest first; none if there is no such file yet.

    A line that is not a record is left out: one that is damaged, or was cut off by a crash or
    because a run is just writing it.

    Args:
        path: of the file.
        say: is told in a sentence which lines were left out; blank ones do not count.

    Returns:
        One dict a record: "step" (int), "split" (str: "train", "validation", "checkpoint" or
        "event") and the metrics (floats), "state_hash" (str) or "event" (str).

    Raises:
        MetricsError: the file cannot be read.
    """
    file = Path(path)
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise unreadable(file, error) from error
    records, left_out = parse(content, file)
    if left_out and say is not None:
        say(left_out)
    return records


def comparable(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records as two equal runs must both write them.

    Leaves out what measures the machine (names that end in "_per_second" or "_memory_gib", and
    "data_wait") and the events, since a run that was interrupted has other ones.

    Args:
        records: of `read_metrics`.
    """
    return [
        {name: value for name, value in record.items() if not _MEASUREMENT.fullmatch(name)}
        for record in records
        if record["split"] != "event"
    ]


def parse(content: bytes, file: Path) -> tuple[list[dict[str, Any]], str]:
    """The records that the content of a file holds, and a sentence on lines left out, or ""."""
    records: list[dict[str, Any]] = []
    damaged: list[tuple[int, bytes]] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(json.loads(line)))
        # brackets in brackets exhaust the stack, and 1e999 is no whole number
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            damaged.append((number, line))
    return records, _told(damaged, file) if damaged else ""


def unreadable(path: Path, error: OSError) -> MetricsError:
    """What is said of a file that the system does not let us read."""
    return MetricsError(
        f"{path} cannot be read ({error.strerror or error}); put its permissions right, or move "
        "it away."
    )


def _told(damaged: list[tuple[int, bytes]], file: Path) -> str:
    numbers = [str(number) for number, _ in damaged[:_NAMED]]
    more = "" if len(damaged) == len(numbers) else ", ..."
    beginning = damaged[0][1][:40].decode(errors="replace")
    return (
        f"{file}: {len(damaged)} line(s) are not a record of metrics and are left out: "
        f"{', '.join(numbers)}{more} (the first begins with {beginning!r})."
    )


def _record(found: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"step": int(found["step"]), "split": _text(found["split"])}
    if not 0 <= values["step"] < _LAST_STEP:
        raise ValueError("no step has this number")
    if values["split"] == "event" and "event" not in found:
        raise LookupError("an event without its sentence")
    for name, value in found.items():
        if name in TEXTS:
            values[name] = _text(value)
        elif name not in values:
            values[_text(name)] = float(value)
    return values


def _text(value: Any) -> str:
    """A text that can be printed, with no half of a character in it."""
    return str(value).encode().decode()
