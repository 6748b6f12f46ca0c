"""What a compiled program moves: through the device's memory, and between devices."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from deqjax.training.estimate._limits import Limits
from deqjax.training.estimate._moved import moved
from deqjax.training.estimate._parts import Part, part_of
from deqjax.training.estimate._program import Instruction, Program, repeats, size_of

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "domain",
    "opt-barrier",
    "add-dependency",
)


class Collective(NamedTuple):
    """Exchanges between devices of one kind, in one part of a step.

    Attributes:
        kind: such as "all-reduce".
        part: of the step.
        looping: whether they are inside of a loop that stops when it has converged.
        devices: that take part in each; None if the program does not say so.
        number: how many, in one step: in such a loop, those of all its passes.
        size: bytes of the arrays that are exchanged, of all of them, on one device.
    """

    kind: str
    part: Part
    looping: bool
    devices: int | None
    number: float
    size: float


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one device moves in a step.

    Attributes:
        memory: bytes by part, read from and written to its main memory.
        exchanges: (kind, part, looping, devices) -> (number, bytes).
    """

    memory: Counter[Part]
    exchanges: Mapping[tuple[str, Part, bool, int | None], tuple[float, float]]

    def collectives(self) -> list[Collective]:
        """The exchanges, those with most bytes first."""
        found = [Collective(*key, *amount) for key, amount in self.exchanges.items()]
        return sorted(found, key=lambda each: -each.size)

    def scaled(self, times: float) -> "Traffic":
        """Of something that is repeated so many times."""
        return Traffic(
            Counter({part: size * times for part, size in self.memory.items()}),
            {key: (count * times, size * times) for key, (count, size) in self.exchanges.items()},
        )

    def __add__(self, other: "Traffic") -> "Traffic":
        """Of both, one after the other."""
        joined = dict(self.exchanges)
        for key, (count, size) in other.exchanges.items():
            before = joined.get(key, (0.0, 0.0))
            joined[key] = before[0] + count, before[1] + size
        return Traffic(self.memory + other.memory, joined)


def traffic(program: Program, limits: Limits) -> Traffic:
    """What one device moves when it runs a program.

    Args:
        program: compiled.
        limits: how often loops of unknown length repeat.
    """
    return _Walk(program, limits).of(program.entry, "rest", looping=False)


class _Walk:
    """Through a program's computations, as it runs them."""

    def __init__(self, program: Program, limits: Limits) -> None:
        self._program, self._limits = program, limits

    def of(self, name: str, part: Part, *, looping: bool) -> Traffic:
        """Of a computation, in which what has no name belongs to a part."""
        total = _nothing()
        instructions = self._program.computations[name]
        for each in instructions.values():
            own = part_of(each.op_name) if each.op_name else part
            total += self._one(each, instructions, own, looping=looping)
        return total

    def _one(
        self,
        each: Instruction,
        beside: Mapping[str, Instruction],
        part: Part,
        *,
        looping: bool,
    ) -> Traffic:
        kind = each.opcode.removesuffix("-start")
        if each.opcode in _FREE or each.opcode.endswith(("-done", "-update")):
            return _nothing()
        if kind in _COLLECTIVES:
            return self._exchange(each, kind, beside, part, looping=looping)
        match kind:
            case "while":
                return self._loop(each, part, looping=looping)
            case "conditional":
                branches = [self.of(name, part, looping=looping) for name in each.called]
                share = self._limits.penalized if part == "penalty" else 1.0
                return max(branches, key=lambda branch: branch.memory.total()).scaled(share)
            case "call" | "async":
                inside = [self.of(name, part, looping=looping) for name in each.called]
                return sum(inside, start=_nothing())
        found = Traffic(Counter({part: moved(self._program, each, beside)}), {})
        for name in each.called if kind == "fusion" else ():
            found += self._fused_exchanges(name, part, looping=looping)
        return found

    def _loop(self, each: Instruction, part: Part, *, looping: bool) -> Traffic:
        times = repeats(self._program, each)
        unknown = times is None
        if times is None:
            times = self._limits.passes(part, looping=looping)
        body = each.body or each.called[0]
        return self.of(body, part, looping=looping or unknown).scaled(times)

    def _exchange(
        self,
        each: Instruction,
        kind: str,
        beside: Mapping[str, Instruction],
        part: Part,
        *,
        looping: bool,
    ) -> Traffic:
        given = sum(size_of(beside[name].shape) for name in each.operands if name in beside)
        made = size_of(each.shape)
        # that of a start has what is given in it, too
        made -= given if each.opcode.endswith("-start") and made > given else 0
        size = max(given, made)
        key = (kind, part, looping, each.group)
        return Traffic(Counter({part: given + made}), {key: (1.0, float(size))})

    def _fused_exchanges(self, name: str, part: Part, *, looping: bool) -> Traffic:
        """Collectives that the compiler has put into a fusion; its bytes are counted already.

        Of those that run beside several fusions each has a copy: the one that starts it counts.
        """
        inside = self._program.computations[name]
        starts = any(each.target == "AsyncCollectiveStart" for each in inside.values())
        total = _nothing()
        for each in inside.values():
            kind = each.opcode.removesuffix("-start")
            if kind in _COLLECTIVES and (starts or not each.chained):
                total += self._exchange(each, kind, inside, part, looping=looping)
        return Traffic(Counter(), total.exchanges)


def _nothing() -> Traffic:
    return Traffic(Counter(), {})
