"""How much memory a compiled program needs on each device, by XLA's own plan."""

import re
from typing import Any, NamedTuple

# as libtpu says it in JAX 0.12, and as it said it before; arguments are counted in
_REFUSED = (
    re.compile(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
        arguments: the state, the memory of the rows and the batch; None if XLA refused the program.
        output: what is not written over the arguments; likewise.
        temporary: what is needed meanwhile; likewise.
        code: the program itself; likewise.
        total: of all of these.
        room: what a program may use there; None where that is not known.
    """

    arguments: int | None
    output: int | None
    temporary: int | None
    code: int | None
    total: int
    room: int | None

    @property
    def fits(self) -> bool | None:
        """Whether there is room; None where that is not known."""
        return None if self.room is None else self.total <= self.room


def planned(compiled: Any, room: int | None) -> Memory:
    """The plan of a compiled program.

    Args:
        compiled: by JAX.
        room: bytes of each device's memory, if known.
    """
    plan = compiled.memory_analysis()
    output = plan.output_size_in_bytes - plan.alias_size_in_bytes
    sizes = (
        plan.argument_size_in_bytes,
        output,
        plan.temp_size_in_bytes,
        plan.generated_code_size_in_bytes,
    )
    return Memory(*sizes, total=sum(sizes), room=room)


def refused(sentence: str) -> Memory | None:
    """The plan of a program that XLA refused, read out of what it said; None for other reasons."""
    found = next(filter(None, (pattern.search(sentence) for pattern in _REFUSED)), None)
    if found is None:
        return None
    used, room = (int(float(found[i]) * _UNITS[found[i + 1]]) for i in (1, 3))
    return Memory(None, None, None, None, total=used, room=room)
