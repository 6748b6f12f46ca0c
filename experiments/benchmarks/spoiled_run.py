"""The command line ``deqjax`` with something wrong with it, which other scripts must notice.

Command: python experiments/benchmarks/spoiled_run.py FAULT train FILE ...
Faults:  data, optimizer, keys   a resumed run forgets the position in the data, the optimizer's
                                 state, or the key of its random numbers
         stuck, raises           its fifth batch never comes, or raises an error
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

FORGOTTEN = ("data", "optimizer", "keys")
BATCH = 5
FAULT_BEGINS = "here the fault begins"


def forgetful(restore: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The method `Checkpoints.restore` without one part of what it restores."""

    @functools.wraps(restore)
    def restored(self: Any, tree: Any, iterator: Any = None, step: int | None = None) -> Any:
        import jax

        iterator = None if what == "data" else iterator
        found, state, meta = restore(self, tree, iterator, step)
        if what == "optimizer":
            state = state._replace(optimizer=tree.optimizer)
        if what == "keys":
            state = state._replace(key=jax.random.fold_in(state.key, 1))
        return found, state, meta

    return restored


def failing(following: Callable[[Any], Any], fault: str) -> Callable[[Any], Any]:
    """The method `TrainingBatches.__next__`, whose fifth batch never comes or raises an error."""
    taken = 0

    @functools.wraps(following)
    def batch(self: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == BATCH:
            print(FAULT_BEGINS, flush=True)
        if taken == BATCH and fault == "raises":
            raise OSError("the disk with the training data is on fire")
        while taken == BATCH:
            time.sleep(1)
        return following(self)

    return batch


def main(fault: str, arguments: list[str]) -> int:
    """Spoil the program, then run it."""
    from deqjax import cli
    from deqjax.training.batches._pipeline import TrainingBatches
    from deqjax.training.checkpoints._checkpoints import Checkpoints

    if fault in FORGOTTEN:
        Checkpoints.restore = forgetful(Checkpoints.restore, fault)
    else:
        TrainingBatches.__next__ = failing(TrainingBatches.__next__, fault)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
