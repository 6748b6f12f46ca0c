"""How long a step takes at the least: each part by its arithmetic or by its memory."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from deqjax.training.estimate._chips import Chip
from deqjax.training.estimate._parts import PARTS, Part
from deqjax.training.estimate._traffic import Collective


class Seconds(NamedTuple):
    """Of a step.

    Attributes:
        parts: the longer of arithmetic and memory, of each part.
        collectives: exchanges between devices, as if nothing else went on meanwhile.
    """

    parts: Mapping[Part, float]
    collectives: float

    @property
    def total(self) -> float:
        """Of the whole step."""
        return sum(self.parts.values()) + self.collectives


ASSUMPTIONS = (
    "every solve takes all of its steps, forward and backward",
    "the chip reaches its published peaks, and nothing waits for anything",
    "float32 matrix products run as one bfloat16 pass, JAX's default on a TPU; "
    "jax_default_matmul_precision=highest takes six",
    "the penalty counts by its probability",
    "exchanges use all links at once and hide behind nothing",
    "data arrive in time",
    "a solve inside of another one takes one pass, as does one without a limit before it runs",
)


def roofline(
    flop: Mapping[Part, float],
    memory: Mapping[Part, float],
    collectives: Iterable[Collective],
    chip: Chip,
    devices: int,
) -> Seconds:
    """The least time of a step on a chip.

    Args:
        flop: of each part, on one device.
        memory: bytes that each part moves, on one device.
        collectives: its exchanges.
        chip: it runs on.
        devices: how many take part in an exchange whose program does not say so.
    """
    parts = {
        part: max(flop.get(part, 0) / chip.flops, memory.get(part, 0) / chip.bandwidth)
        for part in PARTS
    }
    sent = sum(_sent(each, each.devices or devices) for each in collectives)
    return Seconds(parts, sent / chip.interconnect)


def _sent(each: Collective, devices: int) -> float:
    """Round a ring each device sends all but its own share, and of a sum that twice."""
    around = (devices - 1) / devices
    return each.size * around * (2 if each.kind == "all-reduce" else 1)
