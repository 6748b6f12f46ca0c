"""Bytes of a device's main memory that one instruction of a program reads and writes."""

from collections.abc import Mapping

from deqjax.training.estimate._program import Instruction, Program, arrays, size_of

_SLICING = ("dynamic-slice", "gather", "slice")
WRITING = {"dynamic-update-slice": 1, "scatter": 2}
"""What changes its first operand in place, and which operand has the new numbers."""


def moved(program: Program, each: Instruction, beside: Mapping[str, Instruction]) -> int:
    """Bytes that an instruction reads and writes: its operands and results, or slices of them.

    What lies in a chip's scratch memory costs nothing here.

    Args:
        program: it is of.
        each: the instruction.
        beside: those of its computation, by name.
    """
    kind = each.opcode.removesuffix("-start")
    operands = [beside[name].shape for name in each.operands if name in beside]
    if each.opcode == "copy-start":  # its shape has both ends
        return _in_memory(each.shape)
    if kind in _SLICING:
        # the shape of a start has what is cut, the slice, and a semaphore
        size, writes = list(arrays(each.shape))[-2 if each.opcode == "slice-start" else 0]
        return size * (bool(_in_memory(operands[0])) + writes)
    if kind in WRITING:
        return 2 * size_of(operands[WRITING[kind]]) if _in_memory(each.shape) else 0
    if kind == "fusion" and each.called:
        return _fused(program.computations[each.called[0]], each, beside)
    return sum(map(_in_memory, operands)) + _in_memory(each.shape)


def _fused(
    inside: Mapping[str, Instruction], each: Instruction, beside: Mapping[str, Instruction]
) -> int:
    """A fusion reads its operands, or what it cuts out of them, and writes its results."""
    parameters = {one.number: one.name for one in inside.values() if one.opcode == "parameter"}
    read, in_place = 0, 0
    for index, name in enumerate(each.operands):
        whole = _in_memory(beside[name].shape) if name in beside else 0
        if whole and index in parameters:
            touched, kept = _touched(inside, parameters[index], whole)
            read, in_place = read + touched, in_place + kept
    return read + max(_in_memory(each.shape) - in_place, 0)


def _touched(inside: Mapping[str, Instruction], name: str, whole: int) -> tuple[int, int]:
    """What a fusion reads or changes of an array of so many bytes.

    Returns:
        Its bytes, and those of the results that are this array, changed in place.
    """
    users = [one for one in inside.values() if name in one.operands]
    touched, kept = 0, 0
    for one in users:
        if one.opcode == "bitcast":
            more, same = _touched(inside, one.name, whole)
            touched, kept = touched + more, kept + same
        elif not _is_part(one, name):
            touched += whole
        elif one.opcode in WRITING:
            size = size_of(inside[one.operands[WRITING[one.opcode]]].shape)
            # a slice is replaced, what a scatter meets may be added to; the new numbers come from
            # the fusion itself
            touched += size * (2 if one.opcode == "scatter" else 1)
            kept += whole
        else:
            touched += min(size_of(one.shape), whole)
    return (min(touched, whole), kept) if users else (whole, 0)


def _is_part(one: Instruction, name: str) -> bool:
    """Whether an instruction reads or changes only a part of its first operand, of this name."""
    return one.opcode in (*_SLICING, *WRITING) and one.operands.index(name) == 0


def _in_memory(shape: str) -> int:
    return sum(size for size, main in arrays(shape) if main)
