"""The fields of an experiment as options of a command."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from deqjax.training import RunConfig


def with_options(command: type[Any], experiment: "RunConfig", **others: Any) -> type[Any]:
    """A command whose field ``config`` is the experiment, each field of which is an option.

    Args:
        command: a dataclass with such a field.
        experiment: the defaults.
        **others: further fields, dataclasses whose own fields are options as well.
    """
    fields = [
        (name, Annotated[type(default), tyro.conf.arg(name="")], dataclasses.field(default=default))
        for name, default in {"config": experiment.typed(), **others}.items()
    ]
    made = dataclasses.make_dataclass(
        f"{command.__name__}Experiment", fields, bases=(command,), frozen=True
    )
    made.__doc__ = command.__doc__
    return made
