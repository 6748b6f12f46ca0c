"""Starting a run or going on with one, alone or together with other processes."""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from deqjax.training._claim import Claim, Request, claim_free, look
from deqjax.training._config import RunConfig, check, resumable_changes
from deqjax.training._config_values import to_dict
from deqjax.training._lock import sees_lock
from deqjax.training._loop import End, Loop
from deqjax.training._options import ConfigError
from deqjax.training._outcome import Outcome
from deqjax.training._resuming import Place, beginning, restore
from deqjax.training._run import Run, build
from deqjax.training._run_names import RUNS, newest_run
from deqjax.training._scoring import try_evaluation
from deqjax.training._stored_task import kept_by, stored_task
from deqjax.training._task_errors import of_task
from deqjax.training._workdir import Workdir, WorkdirError, saved_steps
from deqjax.training.checkpoints import Checkpoints
from deqjax.training.devices import PeerError, Peers, StopRequest, Trace
from deqjax.training.records import MetricsError, Records, as_listener, has_record
from deqjax.training.report import save_run_picture
from deqjax.training.step import Batch

_SHOWN_WITHIN = 5.0  # seconds after which a shared file system shows a new file everywhere


def train(
    config: RunConfig,
    workdir: Path | str | None = None,
    *,
    resume: bool = False,
    peers: Peers | None = None,
    devices: Sequence[jax.Device] | None = None,
    profile: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train until ``config.steps``, or until Ctrl-C or another signal, which leave a checkpoint.

    Nothing is written before data and model are there. While it trains, the folder is locked.

    Of several processes all must call this alike. If one of them fails, it and the others end with
    a sentence and status 1, without returning.

    Args:
        config: the whole run.
        workdir: folder of the run, on a file system that all processes share; None takes the first
            free one of runs/NAME, runs/NAME-2, ..., or the newest that goes on.
        resume: go on from its newest undamaged checkpoint.
        peers: the processes that train together, from [`deqjax.training.join`][].
        devices: local devices to use; None takes all, and those of the other processes.
        profile: write a trace of five steps into the folder.
        say: receives lines for the user. If it raises an OSError, the records note that, and it is
            not called again.

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
        outcome = _train(config, workdir, resume, peers, devices, profile, as_listener(say))
    except BaseException as error:
        if peers.count == 1:
            raise
        peers.abandon(error)
    peers.leave()
    return outcome


def _train(
    config: RunConfig,
    workdir: Path | str | None,
    resume: bool,
    peers: Peers,
    devices: Sequence[jax.Device] | None,
    profile: bool,
    say: Callable[[str], None],
) -> Outcome:
    check(config)
    stored = to_dict(config)
    peers.agree("configuration", {**stored, "resume": resume})
    request = Request(config.name, stored, resume, resumable_changes(config))
    asked = _asked(config, workdir, request) if peers.first else None
    run = _build(config, devices, peers, _kept(asked, resume, peers))
    peers.agree("training data", run.fingerprint)
    size = sum(x.size for x in jax.tree.leaves(run.state.weights.parameters))
    with contextlib.ExitStack() as stack:
        claim = None
        if peers.first:
            free = RUNS / config.name
            made = Claim(asked, request, say) if asked else claim_free(free, request, say)
            claim = stack.enter_context(made)
        folder = _shared(claim, peers)
        if peers.first:
            rows = run.data.split("train").describe()
            say(
                f"{config.name}: {size:,} parameters, {rows} to train on, "
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
            _refuse_finished(run, place, folder, peers)
            if claim is not None:
                _begin(claim, run, say)
            end, stopped_by = _run(
                run, place, folder, claim, checkpoints, peers, profile, resume, say
            )
        if peers.first:
            _draw(folder, say)
    seconds = time.perf_counter() - started
    return Outcome(
        folder,
        end.step,
        size,
        end.metrics,
        seconds,
        stopped_by,
        end.state_hash,
        end.rescued,
        run.task,
    )


def _asked(config: RunConfig, workdir: Path | str | None, request: Request) -> Workdir | None:
    """The folder that is asked for, after a look whether the run may have it; None is a free one.

    Raises:
        WorkdirError: it may not.
        ConfigError: the run there has done more steps than it is asked for.
    """
    if workdir is None and not request.resume:
        return None
    folder = Workdir.at(newest_run(RUNS / config.name) if workdir is None else workdir)
    look(folder, request)
    newest = max(saved_steps(folder.checkpoints), default=0)
    if newest > config.steps:
        raise ConfigError(
            f"the run in {folder.path} has a checkpoint of step {newest}; raise --steps above that "
            "to train on."
        )
    return folder


def _kept(asked: Workdir | None, resume: bool, peers: Peers) -> Mapping[str, Any] | None:
    """What the task of the run that goes on has kept; None for a new run."""
    if not resume:
        return None
    return kept_by(peers.hear("the folder to go on in", None if asked is None else str(asked.path)))


def _shared(claim: Claim | None, peers: Peers) -> Workdir:
    """The folder that process 0 has claimed, as this process sees it."""
    told = None if claim is None else [str(claim.workdir.path), claim.token]
    path, token = peers.hear("the run's folder", told)
    until = time.monotonic() + _SHOWN_WITHIN
    while claim is None and not sees_lock(Path(path), token):
        if time.monotonic() > until:
            raise WorkdirError(
                f"process {peers.index} does not see {path}, which process 0 has made; choose a "
                "--workdir on a file system that all processes share."
            )
        time.sleep(0.1)
    return Workdir(Path(path))


def _begin(claim: Claim, run: Run, say: Callable[[str], None]) -> None:
    claim.begin(stored_task(run.config.task, run.task))
    for name, change in claim.changes.items():  # not before they were found to be allowed
        say(f"goes on with another {name}: {change}")


def _refuse_finished(run: Run, place: Place, folder: Workdir, peers: Peers) -> None:
    steps = run.config.steps
    finished = place.step == steps and has_record(folder.metrics, steps, "validation")
    if peers.hear("whether there is nothing to do", finished):
        raise ConfigError(
            f"the run in {folder.path} has finished its {place.step} steps; "
            f"raise --steps above {place.step} to train on."
        )


def _build(
    config: RunConfig,
    devices: Sequence[jax.Device] | None,
    peers: Peers,
    kept: Mapping[str, Any] | None,
) -> Run:
    """The run's parts, tried; process 0 comes first, because data may have to be prepared."""
    peers.at("the data")
    if peers.first:
        run = _tried(build(config, devices, kept=kept))
    peers.meet("the data")
    return run if peers.first else _tried(build(config, devices, kept=kept))


def _tried(run: Run) -> Run:
    """The run, after a look whether its configuration and data go with its model.

    Raises:
        ConfigError: they do not.
        DataError: there is nothing to train on, or to evaluate.
        ExperimentError: the task fails.
    """

    def first() -> Batch:
        return run.batches.peek()  # already making them may fail

    config = run.config
    layers = run.layers(of_task(run.task, first))
    try_evaluation(run, "validation")
    if config.pretrain_steps and not layers:
        raise ConfigError(
            f"--pretrain_steps {config.pretrain_steps} warms up an equilibrium model; this one has "
            "no equilibrium layer."
        )
    for layer in layers:
        if layer.max_steps is not None and config.step_limit.least > layer.max_steps:
            raise ConfigError(
                f"--step_limit.least {config.step_limit.least} is above the step limit "
                f"{layer.max_steps} of the layer {layer.name}."
            )
    return run


def _draw(folder: Workdir, say: Callable[[str], None]) -> None:
    """The picture of the run; that it cannot be made is no reason to lose a run's outcome."""
    try:
        save_run_picture(folder)
    except (WorkdirError, MetricsError) as error:
        say(str(error))


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
    claim: Claim | None,
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
        StopRequest(run.config.guard.signals) as request,
        Records(folder, first=peers.first, steps=steps, resumed=resumed, say=say) as records,
    ):
        loop = Loop(
            run,
            place,
            claim=claim,
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
            run.batches.close()


def _devices(run: Run, devices: Sequence[jax.Device] | None) -> str:
    platform = jax.devices()[0].platform
    if devices is None and jax.process_count() > 1:
        count = jax.device_count()
        return f"{count} {platform} device(s) in {jax.process_count()} processes"
    return f"{run.steps.devices} {platform} device(s)"
