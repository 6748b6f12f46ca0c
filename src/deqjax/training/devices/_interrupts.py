"""Ctrl-C and SIGTERM as a request to stop after the current step."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Remembers the first SIGINT or SIGTERM instead of breaking off; a context manager.

    A handler of the user's own is called as well; without one a second Ctrl-C acts at once. On
    leaving, earlier handlers are restored.

    Attributes:
        signal: the signal that asked to stop, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._earlier[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, self.signal or signal.Signals(number)
        earlier = self._earlier[signal.Signals(number)]
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)
        elif again and number == signal.SIGINT:
            raise KeyboardInterrupt
