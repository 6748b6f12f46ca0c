"""How often the loops of a step repeat that stop when they have converged."""

from collections.abc import Sequence
from typing import NamedTuple

from deqjax.training._rehearsal import Layer
from deqjax.training.estimate._parts import Part


class Limits(NamedTuple):
    """The most that a step can take.

    Attributes:
        forward: passes of a solve.
        backward: passes of a backward solve.
        penalized: share of the steps that are penalized.
    """

    forward: int
    backward: int
    penalized: float

    def passes(self, part: Part, *, looping: bool) -> int:
        """How often a loop of unknown length repeats; 1 inside of another such loop."""
        if looping:
            return 1
        return {"forward": self.forward, "backward": self.backward}.get(part, 1)


ONCE = Limits(forward=1, backward=1, penalized=1.0)
"""Every loop of unknown length goes once through its body: a program as it is written."""


def limits_of(layers: Sequence[Layer], penalized: float) -> Limits:
    """The longest solves of any layer: a pass for each step, and one that measures the last.

    A backward loop without a limit of its own undoes each step of the forward one.
    """
    forward = max((each.max_steps or 0 for each in layers), default=0)
    backward = [
        (each.max_steps or 1) if each.backward_steps is None else each.backward_steps + 1
        for each in layers
    ]
    return Limits(forward + 1, max(backward, default=1), penalized)
