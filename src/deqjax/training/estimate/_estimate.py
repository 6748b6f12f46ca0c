"""What a training step will need, before anything has run."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from deqjax.training._config import RunConfig, check
from deqjax.training.estimate._arithmetic import arithmetic
from deqjax.training.estimate._inputs import layers_of
from deqjax.training.estimate._limits import Limits, limits_of
from deqjax.training.estimate._memory import Memory, planned, refused
from deqjax.training.estimate._parts import PARTS, Part
from deqjax.training.estimate._program import read_program
from deqjax.training.estimate._quiet import quiet_natives
from deqjax.training.estimate._roofline import Seconds, roofline
from deqjax.training.estimate._step import PlannedStep, planned_step
from deqjax.training.estimate._target import Target, TopologyError, target_of
from deqjax.training.estimate._traffic import Collective, traffic

_TOLD = 400  # characters of what a compiler says


class Estimate(NamedTuple):
    """What one training step of a run will need.

    Attributes:
        name: of the run.
        target: the topology that it was planned for, or "cpu".
        devices: how many.
        parallel: how they share the work.
        rows: of a batch, over all devices.
        parameters: numbers that are trained.
        limits: how often solves were taken to repeat.
        memory: of each device.
        flop: of each part of a step, on one device.
        moved: bytes of main memory that each part moves, on one device; None if it does not fit.
        collectives: exchanges between devices; None if it does not fit.
        seconds: a step's least time; None on a CPU, or if it does not fit.
        compiled_in: seconds that the compiler took.
    """

    name: str
    target: str
    devices: int
    parallel: str
    rows: int
    parameters: int
    limits: Limits
    memory: Memory
    flop: Mapping[Part, float]
    moved: Mapping[Part, float] | None
    collectives: Sequence[Collective] | None
    seconds: Seconds | None
    compiled_in: float


def estimate_run(config: RunConfig, topology: str | None = None) -> Estimate:
    """Compile a run's training step for devices that need not be there, and report what it needs.

    Nothing is run, and no parameter is made. Data are read only if the task makes no
    [`example`][deqjax.training.Task.example] of them.

    Args:
        config: the run; its batch is shared by all devices.
        topology: a TPU, such as "v5e:2x4": its chip, and the grid of them; needs the extra ``tpu``,
            no TPU. None plans for the devices of this CPU.

    Raises:
        TopologyError: there is no such TPU, libtpu is not installed, or it cannot compile the step.
        ReplicaError: the batch cannot be shared evenly by so many devices.
        ConfigError, DataError, ExperimentError: the run cannot be trained.
    """
    check(config)
    target = target_of(topology)
    step = planned_step(config, target.devices)
    inputs = step.inputs
    layers = layers_of(inputs, step.share)
    penalized = config.penalty.probability if config.penalty.weight else 0.0
    limits = limits_of(layers, penalized)
    total = arithmetic(step.traced.jaxpr, limits)
    flop: dict[Part, float] = {part: total[part] / len(target.devices) for part in PARTS}
    started = time.perf_counter()
    memory, compiled = _compiled(step, target)
    seconds = time.perf_counter() - started
    found = None if compiled is None else traffic(read_program(compiled.as_text()), limits)
    return Estimate(
        name=config.name,
        target=target.name,
        devices=len(target.devices),
        parallel=config.parallel,
        rows=config.batch_size,
        parameters=inputs.parameters,
        limits=limits,
        memory=memory,
        flop=flop,
        moved=None if found is None else {part: float(found.memory[part]) for part in PARTS},
        collectives=None if found is None else found.collectives(),
        seconds=None
        if found is None or target.chip is None
        else roofline(flop, found.memory, found.collectives(), target.chip, len(target.devices)),
        compiled_in=seconds,
    )


def _compiled(step: PlannedStep, target: Target) -> tuple[Memory, Any]:
    """The plan, and the program; None if it does not fit, which the compiler for TPUs refuses."""
    try:
        with quiet_natives():
            compiled = step.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        memory = refused(str(error))
        if memory is None:
            if target.chip is None:
                raise
            said = " ".join(str(error).split())
            raise TopologyError(
                f"the compiler for {target.name} refuses the step, and not for want of memory: "
                f"{said[:_TOLD]}; other sizes, such as fewer rows on each chip, may compile."
            ) from error
        return memory, None
    return planned(compiled, None if target.chip is None else target.chip.hbm), compiled
