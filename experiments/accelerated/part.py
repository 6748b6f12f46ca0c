"""What every part of the measurement is given, and how it tells what it finds."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Tell = Callable[[str, Any], None]
"""``tell(name, value)``: a figure, any JSON value; the same name again replaces it."""


class Options(NamedTuple):
    """What a part may use.

    Attributes:
        folder: an empty one, for whatever it writes on the way.
        until: when it is killed, of `time.monotonic`.
        tiny: sizes that a CPU computes in seconds.
        data: folder of prepared data sets; None is TFDS's own.
        mdeq_step: seconds of a step of MDEQ-tiny, where the part "images" has found them.
    """

    folder: Path
    until: float
    tiny: bool = False
    data: str | None = None
    mdeq_step: float | None = None

    @property
    def left(self) -> float:
        """Seconds until the part is killed."""
        return self.until - time.monotonic()


class Findings:
    """Figures in a file that is whole at any moment.

    Args:
        file: written anew with every figure.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._found = file, dict[str, Any]()

    def tell(self, name: str, value: Any) -> None:
        """Note a figure, and write all of them."""
        self._found[name] = value
        write(self._file, self._found)


def write(file: Path, record: dict[str, Any]) -> None:
    """Replace a JSON file; who reads it, or ends this process, finds the old one or the new."""
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(json.dumps(_plain(record), indent=1, allow_nan=False) + "\n")
    os.replace(draft, file)


def _plain(value: Any) -> Any:
    """The same with words for what JSON has no numbers for: NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
