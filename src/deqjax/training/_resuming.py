"""Where a run begins or goes on: from its configuration, or from its newest good checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax.training._run import Run
from deqjax.training._workdir import differences
from deqjax.training.checkpoints import CheckpointError, Checkpoints
from deqjax.training.devices import PeerError, Peers
from deqjax.training.step import TrainState


class Place(NamedTuple):
    """A point of a run.

    Attributes:
        state: on the host, with the memory of all rows.
        step: finished steps.
        window: metrics of the steps since the last record.
        rollbacks: how often the run has gone back.
        state_hash: of the checkpoint, None at the beginning.
    """

    state: TrainState
    step: int = 0
    window: Sequence[dict[str, float]] = ()
    rollbacks: int = 0
    state_hash: str | None = None


def beginning(run: Run) -> Place:
    """The place before the first step."""
    return Place(run.state)


def restore(
    run: Run,
    checkpoints: Checkpoints,
    peers: Peers,
    *,
    quarantine: Path,
    say: Callable[[str], None],
    rolling_back: bool = False,
) -> Place:
    """The place of the newest undamaged checkpoint, the beginning if there was none yet.

    Process 0 chooses it and moves damaged ones away; the others read what it chose.

    Args:
        run: its parts; the data are moved to the saved position.
        checkpoints: of the run.
        peers: the processes that train together.
        quarantine: folder for damaged checkpoints.
        say: is told of them.
        rolling_back: whether only sound checkpoints count, the data stay where they are, and the
            memory, which belongs to other data, is emptied.

    Raises:
        CheckpointError: all are damaged, of another model, or of other data.
        PeerError: this process sees another checkpoint than process 0.
    """
    iterator = None if rolling_back else run.batches
    found: tuple[int, Any, dict[str, Any]] | None = None
    chosen: dict[str, Any] | None = None
    if peers.first and checkpoints.steps():
        found = checkpoints.restore_newest(
            run.state, iterator, say=say, quarantine=quarantine, sound=rolling_back
        )
        chosen = {"step": found[0], "state_hash": checkpoints.state_hash(found[0])}
    chosen = peers.hear("the checkpoint to go on from", chosen)
    if chosen is None:
        return beginning(run)
    if found is None:
        found = checkpoints.restore(run.state, iterator, chosen["step"])
        if checkpoints.state_hash(chosen["step"]) != chosen["state_hash"]:
            raise PeerError(
                f"process {peers.index} sees another checkpoint of step {chosen['step']} in "
                f"{checkpoints.directory} than process 0; --workdir must lie on a file system that "
                "all processes share."
            )
    step, state, meta = found
    _check_data(step, meta["data"], run.fingerprint)
    if rolling_back:
        state = state._replace(memory=jax.tree.map(np.zeros_like, state.memory))
    return Place(state, step, meta["window"], meta["rollbacks"], chosen["state_hash"])


def _check_data(step: int, stored: Any, now: Any) -> None:
    changes = differences(stored, now)
    if changes:
        listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
        raise CheckpointError(
            f"the checkpoint at step {step} was trained on other data ({listed}): resume with the "
            "data that began the run."
        )
