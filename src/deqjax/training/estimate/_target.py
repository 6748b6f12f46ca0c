"""The devices that a step is planned for: those of a TPU that is not there, or the CPU's."""

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax

from deqjax.training.estimate._chips import CHIPS, Chip
from deqjax.training.estimate._quiet import quiet_natives

_NAME = re.compile(r"(?P<chip>[a-z0-9]+):(?P<grid>[1-9]\d*(x[1-9]\d*){1,2})")


class TopologyError(ValueError):
    """A TPU that cannot be planned for; the message says why and the way out."""


class Target(NamedTuple):
    """What a step is planned for.

    Attributes:
        name: the topology, or "cpu".
        devices: a step is compiled for.
        chip: what each of them can do, None for a CPU.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None


def target_of(topology: str | None) -> Target:
    """The devices of a topology such as "v5e:2x4", which need not exist; None is the CPU's.

    Raises:
        TopologyError: there is no such TPU, or libtpu is not installed.
    """
    if topology is None:
        return Target("cpu", tuple(jax.devices("cpu")), None)
    found = _NAME.fullmatch(topology)
    known = ", ".join(CHIPS)
    if found is None:
        raise TopologyError(
            f"--topology {topology!r} is none; write a chip and a grid of them, as v5e:2x4 "
            f"(chips: {known})."
        )
    chip = CHIPS.get(found["chip"])
    if chip is None:
        raise TopologyError(
            f"--topology {topology}: there is no chip {found['chip']!r}; those known are {known}."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(
            f"--topology {topology} needs the compiler for TPUs: pip install 'deqjax[tpu]'. "
            "Without --topology the step is planned for this CPU."
        )
    grid = [int(size) for size in found["grid"].split("x")]
    return Target(topology, _devices(topology, chip, grid), chip)


def _devices(topology: str, chip: Chip, grid: list[int]) -> tuple[Any, ...]:
    from jax.experimental import topologies

    # libtpu would ask the network what machine this is, and lets one process load it
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # both cores of a chip as one device, as JAX has them on a machine
    options = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    padded = "x".join(map(str, [*grid, *[1] * (chip.dimensions - len(grid))]))
    try:
        with quiet_natives():
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{chip.name}:{padded}", **options
            )
    except Exception as error:  # whatever class libtpu's refusal comes as
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise TopologyError(
            f"--topology {topology} is refused by libtpu ({reason}); grids that machines come in "
            "are 2x2, 2x4, 4x4, 4x8 and so on."
        ) from error
    return tuple(found.devices)
