"""Worker processes that end with the process they work for, and whose end does not go unseen."""

import atexit
import functools
import multiprocessing
import os
import re
import threading
import weakref
from typing import Any

import grain
import jax
import numpy as np

from deqjax.data.pipeline._errors import DataError

_ENDED = re.compile(r"terminated unexpectedly with exit code (-?\d+)")


def end_with_parent(index: int, count: int) -> None:
    """Lets the worker that calls this end when the process that started it does, however it does.

    Linux can promise as much (`PR_SET_PDEATHSIG`), but of the thread that started the worker: Grain
    starts workers from threads, which end when a position is set.

    Args:
        index: which worker this is, as Grain tells.
        count: how many there are.
    """
    del index, count
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    # A process that was forked from the parent keeps its end of the pipe open that `join` waits
    # for: look at the parent's number as well.
    while parent.is_alive() and os.getppid() == parent.pid:
        parent.join(timeout=1)
    os._exit(1)


class WorkerBatches(grain.DatasetIterator):
    """An iterator of Grain's whose batches come out of worker processes.

    It closes itself at the program's end: Grain's own would print the errors of an interpreter that
    is half gone.
    """

    def __init__(self, batches: Any) -> None:
        """Takes over `batches`, an iterator of Grain's."""
        super().__init__()
        self._batches = batches
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def __next__(self) -> Any:
        """The next batch, copied out of the memory that the processes share.

        Raises:
            DataError: a worker has ended, or this iterator is closed.
        """
        try:
            batch = next(self._open())
        except RuntimeError as error:
            ended = _ENDED.search(str(error))
            if ended is None:
                raise
            self.close()
            raise DataError(_explanation(int(ended[1]))) from error
        copied: Any = jax.tree.map(np.array, batch)
        return copied

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON has it."""
        state: dict[str, Any] = self._open().get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues at a position that an iterator with as many workers had."""
        self._open().set_state(state)

    def start_prefetch(self) -> None:
        """Begins to prepare batches."""
        self._open().start_prefetch()

    def close(self) -> None:
        """Ends the workers."""
        batches, self._batches = self._batches, None
        if batches is not None:
            atexit.unregister(self._at_exit)
            batches.close()

    def _open(self) -> Any:
        if self._batches is None:
            raise DataError("these batches are closed, and their workers have ended: make new ones")
        return self._batches


def _close(batches: "weakref.ref[WorkerBatches]") -> None:
    found = batches()
    if found is not None:
        found.close()


def _explanation(code: int) -> str:
    if code < 0:
        return (
            f"a worker process that prepares batches was killed (signal {-code}; 9 often means "
            "that memory ran out): resume from the last checkpoint; if it happens again, make room "
            "in memory or begin a run with fewer --workers"
        )
    return (
        f"a worker process that prepares batches ended with exit code {code}: what it printed "
        'says why; a script that uses workers needs `if __name__ == "__main__":`'
    )
