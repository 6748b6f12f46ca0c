"""Saves that fail again and again, told of once."""

import re


class Failures:
    """Which failures of saving were told of: each reason once, until a save has succeeded."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._durable = -1  # newest step on disk when the last one was told of

    def is_new(self, error: Exception, durable: int | None) -> bool:
        """Whether a failure is to be told of.

        Args:
            error: the failure; reasons that differ in numbers only, such as steps, are the same.
            durable: the newest step on disk.
        """
        self.are_over(durable)
        reason = re.sub(r"\d+", "", str(error))
        new = reason not in self._told
        self._told.add(reason)
        self._durable = -1 if durable is None else durable
        return new

    def are_over(self, durable: int | None) -> bool:
        """Whether a save has succeeded since the last failure; true once.

        Args:
            durable: the newest step on disk.
        """
        over = bool(self._told) and durable is not None and durable > self._durable
        if over:
            self._told.clear()
        return over
