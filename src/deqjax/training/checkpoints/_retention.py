"""Which checkpoints stay on disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Retention:
    """Which steps stay: the newest, the best, and the newest sound one; a policy of Orbax.

    Orbax's own policies forget the scores when a run is resumed.
    """

    def __init__(
        self, keep: int, keep_best: int, contents: Callable[[], dict[int, dict[str, Any]]]
    ) -> None:
        self._keep, self._keep_best, self._contents = keep, keep_best, contents

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each of the steps stays, oldest first."""
        del context
        steps, contents = [each.step for each in checkpoints], self._contents()
        kept = {*steps[-self._keep :], *best(contents, self._keep_best)}
        kept |= {max((step for step in contents if contents[step]["sound"]), default=steps[-1])}
        return [step in kept for step in steps]


def best(contents: Mapping[int, Mapping[str, Any]], count: int) -> list[int]:
    """The steps with the lowest scores, the best first."""
    scored = [(each["score"], step) for step, each in contents.items() if each["score"] is not None]
    return [step for _, step in sorted(scored)[:count]]
