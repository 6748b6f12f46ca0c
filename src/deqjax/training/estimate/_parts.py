"""Which part of a training step an operation belongs to, by the name that JAX gives it."""

from typing import Literal, TypeAlias, get_args

Part: TypeAlias = Literal["forward", "backward", "penalty", "optimizer", "rest"]
PARTS: tuple[Part, ...] = get_args(Part)


def part_of(name: str) -> Part:
    """The part that a path such as "jit(step)/transpose(jvp())/while/body/add" lies in.

    Penalty and optimizer are scopes that the step itself names; what a differentiated function
    computes is "jvp", and its pull-back "transpose". The outermost of these tells: a pull-back that
    a solver makes on its way forward belongs to the forward pass.
    """
    for step in name.split("/"):
        if "penalty" in step:
            return "penalty"
        if step == "optimizer":
            return "optimizer"
        if step.startswith("transpose("):
            return "backward"
        if step.startswith("jvp("):
            return "forward"
    return "rest"
