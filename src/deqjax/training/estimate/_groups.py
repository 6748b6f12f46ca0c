"""How many devices an exchange is between, as XLA's programs write it."""

import math
import re

_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")
_SIZE = re.compile(r"'([^']*)'=(\d+)")


def devices_of_a_group(attributes: str) -> int | None:
    """The devices of the first group, or None where nothing is said; all groups have as many.

    Two groups of two are written ``{{0,1},{2,3}}``, ``[2,2]<=[4]``, or by the axes of a mesh that
    the exchange goes along, ``mesh['data'=2,'model'=2] {'model'}``.

    Args:
        attributes: what follows the operands of an instruction.
    """
    if listed := _LISTED.search(attributes):
        return listed[1].count(",") + 1
    if counted := _COUNTED.search(attributes):
        return int(counted[1])
    if mesh := _MESH.search(attributes):
        sizes = dict(_SIZE.findall(mesh[1]))
        along = [axis.strip(" '") for axis in mesh[2].split(",")]
        return math.prod(int(sizes[axis]) for axis in along if axis in sizes)
    return None
