"""The text of a compiled XLA program, read into its computations."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from deqjax.training.estimate._groups import devices_of_a_group

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_INTEGER = re.compile(r"\((\d+)\)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INDEX = re.compile(r"\bindex=(\d+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|(?:true|false)_computation)="
    r"(\{[^}]*\}|%[\w.\-]+)"
)
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|f8\w*|c64|c128)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NUMBERED = ("constant", "parameter")
_OPENING = {"(": 1, ")": -1, "{": 1, "}": -1, "[": 1, "]": -1}


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
        name: of its result.
        shape: of its result, as XLA writes it, layouts and memory spaces with it.
        opcode: such as "fusion".
        operands: names of instructions of the same computation.
        called: names of computations.
        body: the computation that a loop repeats, or None.
        condition: the computation that says whether a loop goes on, or None.
        trips: how often a loop repeats, if XLA says so.
        number: value of a constant that is an integer, index of a parameter or of the element
            that is taken out of a tuple, or None.
        op_name: JAX's name of the operation that it came from, or "".
        target: what a custom call calls, or "".
        chained: whether it is a piece of an operation that several fusions take turns at.
        group: how many devices exchange something with each other, or None.
        root: whether it is what its computation returns.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]
    body: str | None
    condition: str | None
    trips: int | None
    number: int | None
    op_name: str
    target: str
    chained: bool
    group: int | None
    root: bool


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        entry: name of the computation that is run.
        computations: by name, instructions by name in their order.
    """

    entry: str
    computations: Mapping[str, Mapping[str, Instruction]]


def read_program(text: str) -> Program:
    """Read what ``compiled.as_text()`` returns.

    Raises:
        ValueError: no computation in it is the one that is run.
    """
    entry, computations = None, {}
    current: dict[str, Instruction] | None = None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = {}
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _instruction(line):
            current[found.name] = found
    if entry is None:
        raise ValueError("this is no program of XLA: it has no ENTRY computation.")
    return Program(entry, computations)


def _instruction(line: str) -> Instruction | None:
    named = _NAMED.match(line)
    if named is None:
        return None
    rest = line[named.end() :]
    shape = rest[: _end(rest)] if rest.startswith("(") else rest.split(" ", maxsplit=1)[0]
    opcode = _OPCODE.match(rest, len(shape))
    if opcode is None:
        return None
    given = rest[opcode.end() - 1 :]
    end = _end(given)
    attributes = given[end:]
    called = [name for each in _CALLED.findall(attributes) for name in _names(each)]

    def found(pattern: re.Pattern[str]) -> str | None:
        match = pattern.search(attributes)
        return match[1] if match else None

    trips, number = found(_TRIPS), found(_INDEX) if opcode[1] == "get-tuple-element" else None
    if opcode[1] in _NUMBERED and (value := _INTEGER.match(given[:end])):
        number = value[1]
    return Instruction(
        named[2],
        shape,
        opcode[1],
        tuple(_OPERAND.findall(given[:end])),
        tuple(called),
        found(_BODY),
        found(_CONDITION),
        int(trips) if trips else None,
        int(number) if number else None,
        found(_OP_NAME) or "",
        found(_TARGET) or "",
        "chain_id=" in attributes,
        devices_of_a_group(attributes),
        bool(named[1]),
    )


def repeats(program: Program, loop: Instruction) -> int | None:
    """How often a loop repeats, None where that is not known before it runs.

    A loop that counts ends with a comparison of its counter with a constant, which not every
    compiler notes on the loop itself.
    """
    if loop.trips is not None or loop.condition is None:
        return loop.trips
    numbers, pending = [], [loop.condition]
    while pending:
        for each in program.computations[pending.pop()].values():
            if each.opcode == "constant" and each.number is not None:
                numbers.append(each.number)
            if each.opcode == "fusion":
                pending += each.called
    return max(numbers) if numbers and _compares(program, loop.condition) else None


def _compares(program: Program, name: str) -> bool:
    """Whether a computation returns what a comparison says, alone."""
    root = next(each for each in program.computations[name].values() if each.root)
    return root.opcode == "compare" or (
        root.opcode == "fusion" and _compares(program, root.called[0])
    )


def _names(group: str) -> list[str]:
    return [name.strip().lstrip("%") for name in group.strip("{}").split(",") if name.strip()]


def _end(text: str) -> int:
    """Where the bracket that a text begins with is closed."""
    depth = 0
    for index, character in enumerate(text):
        depth += _OPENING.get(character, 0)
        if not depth:
            return index + 1
    return len(text)


def arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """Bytes of each array of a shape, and whether it lies in the device's main memory.

    Tiles are not filled up: a layout may need more.
    """
    for kind, sizes, layout in _ARRAY.findall(shape):
        numbers = math.prod(int(size) for size in sizes.split(",") if size)
        # S(1) and above are the chip's own scratch memories
        yield -(-numbers * _bits(kind) // 8), "S(" not in layout or "S(0)" in layout


def size_of(shape: str) -> int:
    """Bytes of all arrays of a shape."""
    return sum(size for size, _ in arrays(shape))


def _bits(kind: str) -> int:
    if kind == "pred" or kind.startswith("f8"):
        return 8
    return int(kind.lstrip("bsufc"))
