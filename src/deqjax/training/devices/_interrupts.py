"""Ctrl-C, and the signals of a system that ends processes, as a request to stop after a step."""

import signal
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Remembers the first Ctrl-C or other signal instead of breaking off; a context manager.

    A signal that the parent has this process ignore, as ``nohup`` does with SIGHUP, stays ignored.
    A handler of the user's own is called as well; without one a second Ctrl-C acts at once. On
    leaving, earlier handlers are restored.

    Args:
        signals: names of those that ask to stop besides SIGINT, which Ctrl-C sends; one that this
            system does not have never comes.

    Attributes:
        signal: the signal that asked to stop, or None.
    """

    def __init__(self, signals: Iterable[str] = ("SIGTERM",)) -> None:
        self.signal: signal.Signals | None = None
        known = signal.Signals.__members__
        self._numbers = {known[name] for name in ("SIGINT", *signals) if name in known}
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in self._numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._earlier[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._earlier.items():
            # None: one that was not installed from Python, and that Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, self.signal or signal.Signals(number)
        earlier = self._earlier[signal.Signals(number)]
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)
        elif again and number == signal.SIGINT:
            raise KeyboardInterrupt
