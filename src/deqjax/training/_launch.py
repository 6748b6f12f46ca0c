"""Starting a run or going on with one, alone or together with other processes."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from deqjax._core.summary import table
from deqjax.training._config import RESUMABLE_CHANGES, ConfigError, RunConfig, check
from deqjax.training._loop import End, Loop
from deqjax.training._resuming import Place, beginning, restore
from deqjax.training._run import Run, build
from deqjax.training._stored_config import to_dict
from deqjax.training._workdir import (
    Workdir,
    WorkdirError,
    differences,
    prepare_workdir,
    read_config,
    saved_steps,
)
from deqjax.training.checkpoints import Checkpoints
from deqjax.training.devices import PeerError, Peers, StopRequest, Trace
from deqjax.training.records import MetricsError, Records
from deqjax.training.report import save_run_picture

# scores that a printed outcome names, where the run has them; its metrics hold all
_TOLD = ("loss", "bits_per_byte", "perplexity", "top1", "mean_iou", "forward_converged")


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
    """

    workdir: Workdir
    step: int
    parameters: int
    metrics: dict[str, float] | None
    seconds: float
    stopped_by: signal.Signals | None
    state_hash: str | None = None
    rescued: Path | None = None

    def _rows(self) -> dict[str, str]:
        ended = "finished" if self.stopped_by is None else f"stopped by {self.stopped_by.name}"
        told = {
            "run": f"{ended} at step {self.step} after {self.seconds:.0f} s",
            "parameters": f"{self.parameters:,}",
        }
        for name, value in (self.metrics or {}).items():
            if name in _TOLD:
                told[name] = f"{value:.4g}"
        rescued = {} if self.rescued is None else {"last state rescued to": str(self.rescued)}
        return told | {"folder": str(self.workdir.path)} | rescued

    def __repr__(self) -> str:
        return f"Outcome({'; '.join(f'{name}: {text}' for name, text in self._rows().items())})"

    def _repr_html_(self) -> str:
        return table(self._rows())


def train(
    config: RunConfig,
    workdir: Path | str,
    *,
    resume: bool = False,
    peers: Peers | None = None,
    devices: Sequence[jax.Device] | None = None,
    profile: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train until ``config.steps``, or until Ctrl-C or SIGTERM, which leave a checkpoint.

    Of several processes all must call this alike. If one of them fails, it and the others end with
    a sentence and status 1, without returning.

    Args:
        config: the whole run.
        workdir: folder of the run, on a file system that all processes share.
        resume: go on from its newest undamaged checkpoint.
        peers: the processes that train together, from [`deqjax.training.join`][].
        devices: local devices to use; None takes all, and those of the other processes.
        profile: write a trace of five steps into the folder.
        say: receives lines for the user.

    Raises:
        ConfigError, WorkdirError, CheckpointError, ReplicaError, DataError: one sentence each,
            before the first compilation.
        DivergenceError, ReplicaError: later on; see `deqjax.training._loop.Loop`.
    """
    peers = peers or Peers()
    if jax.process_count() != peers.count or (devices is not None and peers.count > 1):
        raise PeerError(
            f"{jax.process_count()} processes are connected, but train() was given "
            f"{peers.count}{'' if devices is None else ' and devices of its own'}; connect them "
            "with deqjax.training.join, hand its result in as peers, and leave devices out."
        )
    try:
        outcome = _train(config, Workdir(Path(workdir)), resume, peers, devices, profile, say)
    except BaseException as error:
        if peers.count == 1:
            raise
        peers.abandon(error)
    peers.leave()
    return outcome


def _train(
    config: RunConfig,
    folder: Workdir,
    resume: bool,
    peers: Peers,
    devices: Sequence[jax.Device] | None,
    profile: bool,
    say: Callable[[str], None],
) -> Outcome:
    check(config)
    peers.agree("configuration", {**to_dict(config), "resume": resume})
    _prepare(folder, config, resume, peers, say)
    run = _build(config, devices, peers)
    peers.agree("training data", run.task.fingerprint)
    size = sum(x.size for x in jax.tree.leaves(run.state.weights.parameters))
    if peers.first:
        say(
            f"{config.name}: {size:,} parameters, {run.task.describe()}, "
            f"{_devices(run, devices)}, run in {folder.path}"
        )
    started = time.perf_counter()
    with Checkpoints(
        folder.checkpoints,
        keep=config.keep_checkpoints,
        keep_best=config.keep_best,
        read_only=not peers.first,
    ) as checkpoints:
        place = _place(run, folder, checkpoints, peers, say) if resume else beginning(run)
        end, stopped_by = _run(run, place, folder, checkpoints, peers, profile, resume, say)
    if peers.first:
        _draw(folder, say)
    seconds = time.perf_counter() - started
    return Outcome(
        folder, end.step, size, end.metrics, seconds, stopped_by, end.state_hash, end.rescued
    )


def _build(config: RunConfig, devices: Sequence[jax.Device] | None, peers: Peers) -> Run:
    """The run's parts; process 0 comes first, because data may have to be prepared."""
    peers.at("the data")
    if peers.first:
        run = build(config, devices)
    peers.meet("the data")
    return run if peers.first else build(config, devices)


def _draw(folder: Workdir, say: Callable[[str], None]) -> None:
    """The picture of the run; that it cannot be made is no reason to lose a run's outcome."""
    try:
        save_run_picture(folder)
    except (WorkdirError, MetricsError) as error:
        say(str(error))


def _changes(folder: Workdir, config: RunConfig) -> dict[str, str]:
    """What differs from the run that is there, `old -> new` by dotted name.

    Raises:
        ConfigError: it has done more steps than it is asked for.
    """
    experiment, stored = read_config(folder.path)
    newest = max(saved_steps(folder.checkpoints), default=0)
    if experiment == config.name and newest > config.steps:
        raise ConfigError(
            f"the run in {folder.path} has a checkpoint of step {newest}; raise --steps above that "
            "to train on."
        )
    return differences(stored, to_dict(config))


def _prepare(
    folder: Workdir, config: RunConfig, resume: bool, peers: Peers, say: Callable[[str], None]
) -> None:
    if peers.first:
        going_on = resume and folder.config.exists()
        changes = _changes(folder, config) if going_on else {}
        prepare_workdir(
            folder.path,
            experiment=config.name,
            config=to_dict(config),
            resume=resume,
            may_change=RESUMABLE_CHANGES,
        )
        for name, change in changes.items():  # not before they were found to be allowed
            say(f"goes on with another {name}: {change}")
    peers.meet("the run's folder")
    if not folder.config.exists():
        raise WorkdirError(
            f"process {peers.index} does not see {folder.path}, which process 0 has made; choose "
            "a --workdir on a file system that all processes share."
        )


def _place(
    run: Run, folder: Workdir, checkpoints: Checkpoints, peers: Peers, say: Callable[[str], None]
) -> Place:
    place = restore(run, checkpoints, peers, quarantine=folder.quarantine, say=say)
    if peers.first and place.state_hash is None:
        say("the run stopped before its first checkpoint; starting over from step 0")
    elif peers.first:
        say(f"resuming after step {place.step}, state {place.state_hash}")
    return place


def _run(
    run: Run,
    place: Place,
    folder: Workdir,
    checkpoints: Checkpoints,
    peers: Peers,
    profile: bool,
    resume: bool,
    say: Callable[[str], None],
) -> tuple[End, signal.Signals | None]:
    steps = run.config.steps
    resumed = place.step if resume else None
    trace = Trace(folder.profile if profile else None, place.step)
    with (
        Records(folder, first=peers.first, steps=steps, resumed=resumed, say=say) as records,
        StopRequest() as request,
    ):
        finished = place.step == steps and records.has(steps, "validation")
        if peers.hear("whether there is nothing to do", finished):
            raise ConfigError(
                f"the run in {folder.path} has finished its {place.step} steps; "
                f"raise --steps above {place.step} to train on."
            )
        loop = Loop(
            run,
            place,
            checkpoints=checkpoints,
            records=records,
            request=request,
            peers=peers,
            trace=trace,
            quarantine=folder.quarantine,
        )
        try:
            if place.state_hash is not None:
                loop.catch_up(place.state_hash)
            return loop.run(), loop.stopped_by
        finally:
            trace.close()
            run.task.batches.close()


def _devices(run: Run, devices: Sequence[jax.Device] | None) -> str:
    platform = jax.devices()[0].platform
    if devices is None and jax.process_count() > 1:
        count = jax.device_count()
        return f"{count} {platform} device(s) in {jax.process_count()} processes"
    return f"{run.steps.devices} {platform} device(s)"
