"""What a compiled program launches: the kernels of its loop bodies, read from its text.

`kernels_of_loops` takes what ``jax.jit(...).lower(...).compile().as_text()`` prints, for a TPU, a
GPU or a CPU. A kernel is an instruction that the device runs by itself: a fusion, a copy, a slice
update, a library call, a collective. Parameters, tuples, bitcasts, constants and the arithmetic of
single scalars (counters and indices, which a TPU's scalar unit runs beside the kernels) are none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from deqjax.training.estimate._moved import WRITING, moved
from deqjax.training.estimate._parts import Part, part_of
from deqjax.training.estimate._program import Instruction, Program, read_program, size_of

_NAMES = frozenset(["parameter", "tuple", "get-tuple-element", "bitcast", "constant"])
_FREE = _NAMES | {"after-all", "partition-id", "replica-id", "call"}
_CALLS = frozenset(["conditional", "while"])
# of a scalar these are still kernels
_NEVER_FREE = frozenset(["fusion", "reduce", "custom-call", "dot", "convolution"]) | _CALLS
_COLLECTIVE = re.compile(r"all-(reduce|gather|to-all)|reduce-scatter|collective")
_SCRATCH = re.compile(r"S\([1-9]\d*\)")
_NO_SCALAR = re.compile(r"\[\d")

Computation = Mapping[str, Instruction]


class Loop(NamedTuple):
    """The body of one while loop, its condition included.

    Attributes:
        name: of the body.
        kernels: how many of each kind.
        moved: bytes that the kernels read and write; of a slice, the slice alone.
        must: bytes of the loop's own state, each array read once and each changed one written
            once; of one that is updated in place, what is written.
        inner: the loops inside, which `kernels` counts as one call each.
        trips: how often it runs, where the program says so.
        part: of a training step that it belongs to.
    """

    name: str
    kernels: Counter[str]
    moved: int
    must: int
    inner: tuple["Loop", ...]
    trips: int | None
    part: Part

    @property
    def total(self) -> int:
        """Kernels that one pass launches; those of inner loops once for each of their passes."""
        nested = sum((loop.trips or 1) * loop.total - 1 for loop in self.inner)
        return self.kernels.total() + nested


def kernels_of_loops(text: str) -> list[Loop]:
    """The outermost loops of a program, in its order."""
    program = _read(text)
    computations = program.computations.values()
    loops = [each for inside in computations for each in _loops(inside.values())]
    inner = {each.body for loop in loops for each in _loops(_reached(program, loop.body or ""))}
    return [_loop(program, each) for each in loops if each.body not in inner]


def kernels_of_program(text: str) -> Counter[str]:
    """The kernels of a whole program outside its loops; a loop counts as one."""
    program = _read(text)
    return Counter(_kind(each) for each in _reached(program, program.entry) if _is_kernel(each))


def _read(text: str) -> Program:
    """A program whose arrays all lie in main memory: in scratch memory too they are moved."""
    return read_program(_SCRATCH.sub("", text))


def _loops(instructions: Iterable[Instruction]) -> Iterator[Instruction]:
    return (each for each in instructions if each.opcode == "while")


def _loop(program: Program, loop: Instruction) -> Loop:
    name = loop.body or ""
    body, condition = program.computations[name], program.computations[loop.condition or ""]
    reached = list(_reached(program, name))
    kernels = [each for each in [*reached, *condition.values()] if _is_kernel(each)]
    return Loop(
        name,
        Counter(_kind(each) for each in kernels),
        sum(_moved(program, each, body) for each in kernels if each.name in body),
        _carried(program, body),
        tuple(_loop(program, each) for each in _loops(reached)),
        loop.trips,
        part_of(loop.op_name),
    )


def _reached(program: Program, name: str) -> Iterator[Instruction]:
    """The instructions of a computation and of those that it calls; not those of its loops."""
    for each in program.computations[name].values():
        yield each
        if each.opcode == "call":
            yield from _reached(program, each.called[0])
        elif each.opcode == "conditional":
            branches = [list(_reached(program, branch)) for branch in each.called]
            yield from max(branches, key=lambda branch: sum(map(_is_kernel, branch)))


def _is_kernel(each: Instruction) -> bool:
    if each.opcode in _FREE:
        return False
    return each.opcode in _NEVER_FREE or bool(_NO_SCALAR.search(each.shape))


def _kind(each: Instruction) -> str:
    kind = each.opcode.removesuffix("-start").removesuffix("-done")
    return "collective" if _COLLECTIVE.match(kind) else kind


def _moved(program: Program, each: Instruction, body: Computation) -> int:
    """Bytes that a kernel reads and writes; those of an asynchronous one at its start."""
    done = each.opcode.endswith("-done")
    return 0 if done or each.opcode in _CALLS else moved(program, each, body)


def _carried(program: Program, body: Computation) -> int:
    """Bytes of the state that a loop hands on: read once, and written once where it changes."""
    used = Counter(name for each in body.values() for name in each.operands)
    taken = {
        each.number: each
        for each in reversed(body.values())
        if each.opcode == "get-tuple-element" and body[each.operands[0]].opcode == "parameter"
    }
    total = 0
    for index, result in enumerate(_results(body)):
        entry = taken.get(index)
        if entry is None:
            continue
        size = size_of(entry.shape)
        if result.name == entry.name:  # handed on as it is
            total += size if used[entry.name] > 1 else 0
        else:
            total += (size if used[entry.name] else 0) + _changed(program, body, result)
    return total


def _changed(program: Program, body: Computation, result: Instruction) -> int:
    """Bytes written of a new value: of one that is changed in place, what is new."""
    size, index = size_of(result.shape), None
    while result.opcode in ("bitcast", "get-tuple-element"):
        index, result = result.number, body[result.operands[0]]
    if result.opcode in WRITING:
        return size_of(body[result.operands[WRITING[result.opcode]]].shape)
    if result.opcode == "fusion":
        inside = program.computations[result.called[0]]
        return _changed(program, inside, _results(inside)[index or 0])
    # what a fusion hands on as it is, not what the body hands on in another place
    return 0 if result.opcode == "parameter" and index is None else size


def _results(computation: Computation) -> list[Instruction]:
    root = next(each for each in computation.values() if each.root)
    return [computation[each] for each in root.operands] if root.opcode == "tuple" else [root]
