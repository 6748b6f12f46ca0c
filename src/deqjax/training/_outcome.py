"""How a run ended, for the user and for the shell."""

import signal
from pathlib import Path
from typing import NamedTuple

from deqjax._core.summary import table
from deqjax._scores import scores
from deqjax.training._task import Task
from deqjax.training._workdir import Workdir


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        workdir: where everything lies.
        step: finished steps.
        parameters: number of trained parameters.
        metrics: the last evaluation, None if the run was stopped before it.
        seconds: wall-clock time of the training loop, compilation included.
        stopped_by: the signal that ended the run early, or None.
        state_hash: of the last state, 64 hexadecimal digits.
        rescued: where the last state lies, if it could not be saved in the workdir; else None.
        task: the configuration's, opened: with what it has from its data.
    """

    workdir: Workdir
    step: int
    parameters: int
    metrics: dict[str, float] | None
    seconds: float
    stopped_by: signal.Signals | None
    state_hash: str | None = None
    rescued: Path | None = None
    task: Task | None = None

    def _rows(self) -> dict[str, str]:
        ended = "finished" if self.stopped_by is None else f"stopped by {self.stopped_by.name}"
        told = {
            "run": f"{ended} at step {self.step} after {self.seconds:.0f} s",
            "parameters": f"{self.parameters:,}",
        }
        metrics = self.metrics or {}
        for name in ("loss", *scores(metrics), "forward_converged"):
            if name in metrics:
                told[name] = f"{metrics[name]:.4g}"
        rescued = {} if self.rescued is None else {"last state rescued to": str(self.rescued)}
        return told | {"folder": str(self.workdir.path)} | rescued

    def __repr__(self) -> str:
        return f"Outcome({'; '.join(f'{name}: {text}' for name, text in self._rows().items())})"

    def _repr_html_(self) -> str:
        return table(self._rows())
