"""The training loop: steps, records, evaluations, checkpoints, guards, and a clean stop."""

import math
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

from deqjax.training._claim import Claim
from deqjax.training._config_values import to_dict
from deqjax.training._resuming import Place, restore
from deqjax.training._run import Run
from deqjax.training._scoring import evaluate
from deqjax.training._task_errors import of_task
from deqjax.training.checkpoints import CheckpointError, Checkpoints, Failures, save_elsewhere
from deqjax.training.devices import (
    Peers,
    ReplicaError,
    StopRequest,
    Trace,
    first_replica,
    memory_in_use,
)
from deqjax.training.records import Records, Window
from deqjax.training.report import warnings
from deqjax.training.step import Control


class DivergenceError(RuntimeError):
    """The loss or the gradient stays not finite, whatever the run goes back to."""


class End(NamedTuple):
    """How the loop ended.

    Attributes:
        step: finished steps.
        metrics: the last evaluation, None if the loop was stopped before it.
        state_hash: of the last state, None if it was not saved anew.
        rescued: where the last state lies instead, if it could not be saved in the run's folder.
    """

    step: int
    metrics: dict[str, float] | None
    state_hash: str | None
    rescued: Path | None


class Loop:
    """A run in progress.

    The step after the next is handed to the devices before the last one's numbers are read: they
    never wait for the host. What must be known of a step (`Control`) is therefore known one
    step later, and the same in all processes, which then do the same.

    Args:
        run: the parts.
        place: where it begins or goes on.
        claim: this process's to the run's folder, None in all but process 0.
        checkpoints: of the run.
        records: of the run.
        request: whether this process was asked to stop.
        peers: the processes that train together.
        trace: of some steps, or of none.
        quarantine: folder for damaged checkpoints.
    """

    def __init__(
        self,
        run: Run,
        place: Place,
        *,
        claim: Claim | None,
        checkpoints: Checkpoints,
        records: Records,
        request: StopRequest,
        peers: Peers,
        trace: Trace,
        quarantine: Path,
    ) -> None:
        self._run, self._config, self._steps = run, run.config, run.steps
        self._claim = claim
        self._checkpoints, self._records, self._request = checkpoints, records, request
        self._peers, self._trace, self._quarantine = peers, trace, quarantine
        self._stored = to_dict(run.config)
        self._seen: set[str] = set()  # warnings of the last record
        self._warned: set[str] = set()
        self._latest: dict[str, float] = {}
        self._state_hash: str | None = None
        self._rescued: Path | None = None
        self._failures = Failures()
        self._stop = 0  # the signal that some process got
        self._waited, self._timed = 0.0, 0
        self._clock = time.perf_counter()
        self._go_to(place)

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that some process was asked to stop by."""
        return signal.Signals(self._stop) if self._stop else None

    def run(self) -> End:
        """Run until the last step or until some process is asked to stop.

        Raises:
            DivergenceError: loss or gradient stay not finite.
            ReplicaError: the devices' copies of the state differ.
            WorkdirError: another process has taken the folder over.
        """
        config = self._config
        while self._step < config.steps and not self._stop:
            if self._claim is not None:
                self._claim.check()
            self._take_step()
            last = self._step == config.steps
            logs, evaluates, saves = (
                self._step % every == 0
                for every in (config.log_every, config.evaluation.every, config.checkpoint_every)
            )
            if logs or evaluates or saves or last or self._stop:
                self._settle()
            if self._skips >= config.guard.skips:
                self._settle()  # the step under way may be a good one
            if self._skips >= config.guard.skips:
                self._roll_back()
                continue
            if logs or saves or last or self._stop:
                self._check_folder()
            if logs or last:
                self._log()
            self._records.show(self._step, self._latest)
            score = None
            if evaluates and not last and not self._stop:
                score = self._evaluate(config.evaluation.batches)["loss"]
            self._check_save()
            if last or self._stop:
                self._save_finally()
            elif saves or (self._overdue and logs):
                self._save(score)
        if self._step < config.steps:
            return End(self._step, None, self._state_hash, self._rescued)
        metrics = self._evaluate(config.evaluation.final_batches)
        return End(self._step, metrics, self._state_hash, self._rescued)

    def catch_up(self, state_hash: str) -> None:
        """Make the records of the step that the run goes on from which a crash has prevented.

        Args:
            state_hash: of the checkpoint of that step.
        """
        step, config = self._step, self._config
        due = step % config.evaluation.every == 0 and step < config.steps
        missing = due and not self._records.has(step, "validation")
        if self._peers.hear("a missing evaluation", missing):
            self._evaluate(config.evaluation.batches)
        regular = step % config.checkpoint_every == 0 or step == config.steps
        if regular and not self._records.has(step, "checkpoint"):
            self._records.checkpoint(step, state_hash)

    def _go_to(self, place: Place) -> None:
        self._state = self._steps.place(place.state)
        self._step = place.step
        self._window, self._rollbacks = Window(place.window), place.rollbacks
        self._control: Control | None = None
        self._skips = 0
        self._overdue = False  # a checkpoint that was put off

    def _take_step(self) -> None:
        step = self._step + 1
        batch = self._next_batch()
        self._peers.at(f"step {step}")
        self._trace.before(step)
        self._state, metrics, control = self._steps.train(
            self._state,
            batch,
            stop=int(self._request.signal or 0),
            pretraining=step <= self._config.pretrain_steps,
        )
        self._step = step
        self._window.add(metrics)
        self._timed += 1
        self._settle()  # of the step before
        self._control = control
        self._trace.after(step, control)

    def _settle(self) -> None:
        """Read what must be known of the newest step; waits for it."""
        if self._control is not None:
            control = first_replica(self._control)
            self._stop = max(self._stop, int(control.stop))
            self._skips = int(control.skips_in_a_row)
            self._control = None

    def _next_batch(self) -> Any:
        """The next batch; what the devices may have waited for it is added up."""
        idle = self._is_idle()
        started = time.perf_counter()
        batch = next(self._run.batches)
        if idle or self._is_idle():
            self._waited += time.perf_counter() - started
        return batch

    def _is_idle(self) -> bool:
        newest: Any = None if self._control is None else self._control.stop
        return newest is None or bool(newest.is_ready())

    def _log(self) -> None:
        task = self._run.task
        averages = self._window.averaged()
        seconds = time.perf_counter() - self._clock
        averages |= of_task(task, lambda: task.in_units(averages["loss"])) | memory_in_use()
        unit, examples = task.throughput(self._config.batch_size)
        averages[f"{unit}_per_second"] = self._timed * examples / seconds
        averages["steps_per_second"] = self._timed / seconds
        averages["data_wait"] = self._waited / seconds
        self._latest = averages
        self._records.train(self._step, averages)
        self._window = Window()
        self._restart_clock()
        found = warnings(self._stored, self._step, averages)
        for name in sorted(found.keys() & self._seen - self._warned):
            self._records.event(self._step, f"warning: {found[name]}")
        # told of when it lasts for two records, and again only after two without it
        self._warned = (self._warned | (found.keys() & self._seen)) & (found.keys() | self._seen)
        self._seen = set(found)

    def _restart_clock(self) -> None:
        self._waited, self._timed, self._clock = 0.0, 0, time.perf_counter()

    def _evaluate(self, batches: int) -> dict[str, float]:
        weights = self._state.evaluated
        metrics = evaluate(
            self._run,
            weights,
            "validation",
            batches=batches,
            progress=lambda: self._peers.at(f"the evaluation after step {self._step}"),
        )
        self._records.validation(self._step, metrics)
        self._restart_clock()
        return metrics

    def _check_folder(self) -> None:
        """Make the run's folder anew if somebody has removed it, and tell of that."""
        lost = None if self._claim is None else self._claim.renew()
        if lost is not None:
            self._records.event(self._step, lost)

    def _check_save(self) -> None:
        """Find out whether the checkpoint under way has failed."""
        try:
            self._checkpoints.poll()
        except CheckpointError as error:
            self._put_off(error)
        if self._failures.are_over(self._checkpoints.durable):
            self._records.event(self._step, "checkpoints can be saved again.")

    def _put_off(self, error: CheckpointError) -> None:
        # together with others, all processes must save at the same step: at the next regular one
        if self._peers.count == 1:
            self._overdue = True
        again = "record" if self._peers.count == 1 else "checkpoint"
        self._tell_of(error, f"{error} Training goes on; saving is tried at each {again}.")

    def _tell_of(self, error: CheckpointError, sentence: str) -> None:
        if self._failures.is_new(error, self._checkpoints.durable):
            self._records.event(self._step, sentence)

    def _save(self, score: float | None) -> None:
        # while updates are left out, the state may be the reason: it is no good state yet
        self._overdue = self._skips > 0
        if self._overdue:
            return
        state = self._on_host()
        if not self._peers.first:
            return
        try:
            state_hash = self._write(self._checkpoints, state, score)
            self._records.checkpoint(self._step, state_hash)
        except CheckpointError as error:
            self._put_off(error)

    def _save_finally(self) -> None:
        """Save and wait until it is done; if that is not possible in the folder, then elsewhere."""
        state = self._on_host()
        rescued = str(self._try_to_save(state) or "") if self._peers.first else ""
        rescued = self._peers.hear("where the state was saved", rescued)
        self._rescued = Path(rescued) if rescued else None

    def _try_to_save(self, state: Any) -> Path | None:
        """Where the state lies if it could not be saved in the run's folder."""
        for pause in (0, 0, 1):  # seconds before each attempt
            time.sleep(pause)
            try:
                state_hash = self._write(self._checkpoints, state, None)
                self._checkpoints.wait()
            except CheckpointError as error:
                self._tell_of(error, str(error))
                continue
            if self._step == self._config.steps:
                self._records.checkpoint(self._step, state_hash)
            else:  # no record that a run without a stop had not
                self._records.event(self._step, f"stopped, state {state_hash}")
            return None
        rescued = save_elsewhere(lambda other: self._write(other, state, None))
        self._records.event(self._step, f"the state was saved in {rescued} instead")
        return rescued

    def _on_host(self) -> Any:
        self._peers.at(f"the checkpoint of step {self._step}")
        differing = self._steps.differing(self._state)
        if differing:
            raise ReplicaError(
                f"{differing} numbers of the training state differ between the devices at step "
                f"{self._step}: some hardware is faulty; resume from the last checkpoint on other "
                "hardware."
            )
        return self._steps.on_host(self._state)

    def _write(self, checkpoints: Checkpoints, state: Any, score: float | None) -> str:
        meta = {
            "data": self._run.fingerprint,
            "window": self._window.values(),
            "rollbacks": self._rollbacks,
        }
        self._state_hash = checkpoints.save(
            self._step, state, self._run.batches, meta, score=score, sound=self._skips == 0
        )
        return self._state_hash

    def _roll_back(self) -> None:
        """Go back to the last good checkpoint, but not in the data: they may be the reason."""
        guard, step = self._config.guard, self._step
        skipped = [values for values in self._window.values() if values["skipped"]]
        lost = not skipped or not math.isfinite(skipped[-1]["loss"])
        culprit = "loss" if lost else "gradient"
        what = f"the {culprit} was not finite in {self._skips} steps in a row, up to step {step}"
        if self._rollbacks >= guard.rollbacks:
            raise DivergenceError(
                f"{what}, and the run has gone back {self._rollbacks} time(s) already. Its "
                f"checkpoints in {self._checkpoints.directory} are from before that: --resume "
                "with a lower --optimizer.learning-rate or a higher --penalty.weight, or look at "
                "the data."
            )
        try:
            self._checkpoints.wait()
        except CheckpointError as error:
            self._put_off(error)
        place = restore(
            self._run,
            self._checkpoints,
            self._peers,
            quarantine=self._quarantine,
            say=lambda line: self._records.event(step, line),
            rolling_back=True,
        )
        rollbacks = self._rollbacks + 1
        self._go_to(place._replace(rollbacks=rollbacks))
        self._records.rewind(place.step)
        self._records.event(
            step,
            f"{what}; rolled back to step {place.step}, and on with the data that come next "
            f"({rollbacks} of at most {guard.rollbacks} times)",
        )
        self._restart_clock()
