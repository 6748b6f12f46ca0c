"""Ranges that the numbers of a configuration may lie in, declared on its fields.

A field annotated with one of these is checked before anything is built, and a value outside is
refused by a sentence that names the option. Every range ends where any machine can still hold what
the number asks for, or where a larger one means nothing.
"""

from typing import Annotated, TypeAlias

from annotated_types import Interval

_MANY = 1_000_000_000

Count: TypeAlias = Annotated[int, Interval(ge=1, le=_MANY)]
"""A whole number from 1 to a billion: of steps, batches, checkpoints."""

Natural: TypeAlias = Annotated[int, Interval(ge=0, le=_MANY)]
"""A whole number from 0 to a billion."""

Size: TypeAlias = Annotated[int, Interval(ge=1, le=65_536)]
"""How long one axis of an array is, 1 to 65,536: rows of a batch, positions, classes, pixels."""

Width: TypeAlias = Annotated[int, Interval(ge=1, le=16_384)]
"""Features or channels that matrices lead from and to, 1 to 16,384: then each has 1 GiB."""

Tokens: TypeAlias = Annotated[int, Interval(ge=1, le=1_000_000)]
"""How many different tokens there are, or one of them, 1 to a million."""

Layers: TypeAlias = Annotated[int, Interval(ge=1, le=1_000)]
"""Layers that stand one behind the other, 1 to 1,000: each is compiled."""

Steps: TypeAlias = Annotated[int, Interval(ge=1, le=100_000)]
"""Steps of an iteration, 1 to 100,000."""

Seed: TypeAlias = Annotated[int, Interval(ge=0, le=2**32 - 1)]
"""A whole number from 0 to 2^32 - 1, what the generators of JAX, NumPy and Grain all take."""

Positive: TypeAlias = Annotated[float, Interval(gt=0, le=_MANY)]
"""A number above 0, up to a billion."""

NotNegative: TypeAlias = Annotated[float, Interval(ge=0, le=_MANY)]
"""A number from 0 to a billion."""

Share: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
"""A number from 0 to 1, both included: a probability, a fraction."""

PositiveShare: TypeAlias = Annotated[float, Interval(gt=0, le=1)]
"""A share that is not 0."""

Rate: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
"""A share that is not 1: of dropout, or how much an average keeps of what it was."""
