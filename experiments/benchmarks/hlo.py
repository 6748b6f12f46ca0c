"""What a compiled program launches: the kernels of its loop bodies, read from its text.

`kernels_of_loops` parses what ``jax.jit(...).lower(...).compile().as_text()`` prints, for a TPU, a
GPU or a CPU. A kernel is an instruction that the device runs by itself: a fusion, a copy, a slice
update, a library call, a collective. Parameters, tuples, bitcasts, constants and the arithmetic of
single scalars (counters and indices, which a TPU's scalar unit runs beside the kernels) are none.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_NAMES = frozenset(["parameter", "tuple", "get-tuple-element", "bitcast", "constant"])
_FREE = _NAMES | {"after-all", "partition-id", "replica-id"}
_CALLS = frozenset(["call", "conditional", "while"])
# of a scalar these are still kernels
_NEVER_FREE = frozenset(["fusion", "reduce", "custom-call", "dot", "convolution"]) | _CALLS
_COLLECTIVE = re.compile(r"all-(reduce|gather|to-all)|reduce-scatter|collective")
_BYTES = {"pred": 1, "bf16": 2, "f16": 2}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w*|[suf]\d+|c\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"(ROOT )?%?([\w.\-]+) = (.+)$")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (\(.*\) -> .*)?\{$")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str  # as printed: f32[32,256]{1,0}, or a tuple of such
    kind: str  # fusion, copy, ...
    operands: tuple[str, ...]
    text: str
    is_root: bool


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
    """

    name: str
    kernels: Counter[str]
    moved: int
    must: int
    inner: tuple["Loop", ...]
    trips: int | None

    @property
    def total(self) -> int:
        """Kernels that one pass launches; those of inner loops once for each of their passes."""
        nested = sum((loop.trips or 1) * loop.total - 1 for loop in self.inner)
        return self.kernels.total() + nested


def kernels_of_loops(text: str) -> list[Loop]:
    """The outermost loops of a program, in its order."""
    computations = dict(_computations(text))
    inside = {name for each in computations.values() for name in _bodies(each.values())}
    inner = {name for body in inside for name in _bodies(_reached(computations, body))}
    found = []
    for computation in computations.values():
        for instruction in computation.values():
            if instruction.kind == "while" and _attribute(instruction, "body") not in inner:
                found.append(_loop(computations, instruction))
    return found


def _loop(computations: Mapping[str, Computation], instruction: Instruction) -> Loop:
    body = computations[_attribute(instruction, "body")]
    condition = computations[_attribute(instruction, "condition")]
    reached = list(_reached(computations, _attribute(instruction, "body")))
    kernels = [each for each in [*reached, *condition.values()] if _is_kernel(each)]
    inner = tuple(_loop(computations, each) for each in reached if each.kind == "while")
    trips = re.search(r'known_trip_count":?\{"n":"(\d+)"', instruction.text)
    return Loop(
        _attribute(instruction, "body"),
        Counter(_kind(each) for each in kernels),
        sum(_moved(computations, body, each) for each in kernels if each.name in body),
        _carried(computations, body),
        inner,
        int(trips[1]) if trips else None,
    )


def _reached(computations: Mapping[str, Computation], name: str) -> Iterator[Instruction]:
    """The instructions of a computation and of those that it calls; not those of its loops."""
    for instruction in computations[name].values():
        yield instruction
        if instruction.kind == "call":
            yield from _reached(computations, _attribute(instruction, "to_apply"))
        elif instruction.kind == "conditional":
            branches = [
                list(_reached(computations, branch)) for branch in _branches(instruction.text)
            ]
            yield from max(branches, key=lambda each: sum(map(_is_kernel, each)))


def _bodies(instructions: Iterator[Instruction] | Sequence[Instruction]) -> Iterator[str]:
    return (_attribute(each, "body") for each in instructions if each.kind == "while")


def _is_kernel(instruction: Instruction) -> bool:
    if instruction.kind in _FREE or instruction.kind == "call":
        return False
    return instruction.kind in _NEVER_FREE or any(dims for _, dims in _arrays(instruction.shape))


def _kind(instruction: Instruction) -> str:
    kind = instruction.kind.removesuffix("-start").removesuffix("-done")
    return "collective" if _COLLECTIVE.match(kind) else kind


def _moved(
    computations: Mapping[str, Computation], body: Computation, instruction: Instruction
) -> int:
    """Bytes that a kernel reads and writes."""
    called = _called(instruction.text)
    if instruction.kind != "fusion" or called not in computations:
        inside: Computation = {}
    else:
        inside = computations[called]
    if not inside:
        if instruction.kind == "dynamic-update-slice":
            return 2 * _size(body, instruction.operands[1])
        if instruction.kind in ("dynamic-slice", "slice"):
            return 2 * _bytes(instruction.shape)
        if instruction.kind in _CALLS:
            return 0
        return _bytes(instruction.shape) + sum(_size(body, each) for each in instruction.operands)
    users = _users(inside)
    parameters = [each for each in inside.values() if each.kind == "parameter"]
    read = sum(_read(inside, users, parameter) for parameter in parameters)
    return read + sum(_written(inside, each) for each in _results(inside))


def _read(inside: Computation, users: Mapping[str, list[Instruction]], source: Instruction) -> int:
    """Bytes that a fused computation reads of a parameter."""
    total, whole = 0, _bytes(source.shape)
    for user in users.get(source.name, []):
        if user.kind == "bitcast":
            total += _read(inside, users, user)
        elif user.kind in ("dynamic-slice", "slice"):
            total += _bytes(user.shape)
        elif user.kind == "dynamic-update-slice" and user.operands[0] == source.name:
            continue  # in place: what is not written is not touched
        else:
            return whole
    return min(total, whole)


def _written(inside: Computation, result: Instruction) -> int:
    while result.kind == "bitcast":
        result = inside[result.operands[0]]
    if result.kind == "dynamic-update-slice":
        return _size(inside, result.operands[1])
    return 0 if result.kind == "parameter" else _bytes(result.shape)


def _results(computation: Computation) -> list[Instruction]:
    root = next(each for each in computation.values() if each.is_root)
    return [computation[each] for each in root.operands] if root.kind == "tuple" else [root]


def _carried(computations: Mapping[str, Computation], body: Computation) -> int:
    """Bytes of the state that a loop hands on: read once, and written once where it changes."""
    users, total = _users(body), 0
    for index, result in enumerate(_results(body)):
        entry = _carried_entry(body, index)
        if entry is None:
            continue
        size, used = _bytes(entry.shape), bool(users.get(entry.name))
        if result.name == entry.name:  # handed on as it is
            total += size if len(users[entry.name]) > 1 else 0
            continue
        total += (size if used else 0) + _changed(computations, body, result)
    return total


def _carried_entry(body: Computation, index: int) -> Instruction | None:
    for each in body.values():
        if each.kind == "get-tuple-element" and f"index={index}," in each.text + ",":
            source = body[each.operands[0]]
            if source.kind == "parameter":
                return each
    return None


def _changed(
    computations: Mapping[str, Computation], body: Computation, result: Instruction
) -> int:
    """Bytes written of a new value: of a slice update, the slice."""
    index = 0
    if result.kind == "get-tuple-element":
        found = re.search(r"index=(\d+)", result.text)
        index, result = int(found[1]) if found else 0, body[result.operands[0]]
    if result.kind == "dynamic-update-slice":
        return _size(body, result.operands[1])
    called = _called(result.text)
    if result.kind == "fusion" and called in computations:
        inside = computations[called]
        return _written(inside, _results(inside)[index])
    return _bytes(result.shape)


def _computations(text: str) -> Iterator[tuple[str, Computation]]:
    name, lines = "", {}
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            found = _COMPUTATION.match(line)
            name, lines = (found[2] if found else ""), {}
        elif line.startswith("}") and name:
            yield name, lines
            name = ""
        elif name and (found := _INSTRUCTION.match(line.strip())):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            lines[instruction.name] = instruction


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    kind, arguments = rest.split("(", 1)
    inside = arguments[: _closing("(" + arguments) - 1]
    return Instruction(name, shape, kind, tuple(re.findall(r"%([\w.\-]+)", inside)), rest, is_root)


def _closing(text: str) -> int:
    """Where the bracket that opens a text closes."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return index
    raise ValueError(f"a bracket is not closed in {text[:80]!r}.")


def _users(computation: Computation) -> dict[str, list[Instruction]]:
    users: dict[str, list[Instruction]] = {}
    for instruction in computation.values():
        for operand in instruction.operands:
            users.setdefault(operand, []).append(instruction)
    return users


def _attribute(instruction: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", instruction.text)
    return found[1] if found else ""


def _called(text: str) -> str:
    found = re.search(r"\bcalls=%?([\w.\-]+)", text)
    return found[1] if found else ""


def _branches(text: str) -> list[str]:
    found = re.search(r"branch_computations=\{([^}]*)\}", text)
    if found:
        return re.findall(r"%?([\w.\-]+)", found[1])
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", text)


def _arrays(shape: str) -> list[tuple[str, str]]:
    return _ARRAY.findall(shape)


def _bytes(shape: str) -> int:
    total = 0
    for kind, dims in _arrays(shape):
        bits = re.search(r"\d+$", kind)
        width = _BYTES.get(kind) or (int(bits[0]) // 8 if bits and not kind.startswith("f8") else 1)
        total += width * math.prod(int(each) for each in dims.split(",") if each)
    return total


def _size(computation: Computation, name: str) -> int:
    return _bytes(computation[name].shape) if name in computation else 0


def kernels_of_program(text: str) -> Counter[str]:
    """The kernels of a whole program outside its loops; a loop counts as one."""
    computations = dict(_computations(text))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    if entry is None:
        raise ValueError("the text has no ENTRY computation: pass compiled.as_text().")
    return Counter(_kind(each) for each in _reached(computations, entry[1]) if _is_kernel(each))
