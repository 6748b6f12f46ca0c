"""From the words of a command line to the command that they ask for."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from deqjax.cli._compare import Compare
from deqjax.cli._convert import Convert
from deqjax.cli._estimate import Estimate
from deqjax.cli._evaluate import Evaluate
from deqjax.cli._generate import Generate
from deqjax.cli._inspect import Inspect
from deqjax.cli._prepare import Prepare
from deqjax.cli._runs import Runs
from deqjax.cli._sweep import Sweep, combinations
from deqjax.cli._train import Train
from deqjax.cli._usage import UsageError, unknown

_COMMANDS: dict[str, Any] = {
    "train": Train,
    "prepare": Prepare,
    "estimate": Estimate,
    "sweep": Sweep,
    "runs": Runs,
    "inspect": Inspect,
    "compare": Compare,
    "evaluate": Evaluate,
    "generate": Generate,
    "convert": Convert,
}
_OF_EXPERIMENTS = ("train", "prepare", "estimate", "sweep")
_HELP = ("-h", "--help")
_EMPTY = "a path is empty; name a file or a folder, the current one as a dot."
_DESCRIPTION = """Deep equilibrium models in JAX: train them, and see how they do.

deqjax COMMAND --help lists the options of a command, deqjax train FILE --help every field of the
experiment with its default; deqjax --tyro-write-completion bash FILE writes what completes them."""


def parse(given: Sequence[str]) -> Any:
    """The command that a line asks for: a dataclass of its options, with a method ``run``.

    Args:
        given: the words after the program's name, at least one.

    Raises:
        UsageError: there is no such command or option, or what a command needs is missing.
        ExperimentError: the file is no experiment.
        SystemExit: help was asked for, or a value is not what its option takes; tyro has said it.
    """
    name, *words = given
    if not name.startswith("-") and name not in _COMMANDS:
        raise UsageError(unknown("command", name, _COMMANDS))
    if name.startswith("-"):
        return _read({each: (kind, None) for each, kind in _COMMANDS.items()}, given)
    if name not in _OF_EXPERIMENTS or words[:1] in ([each] for each in _HELP):
        return _read({name: (_COMMANDS[name], None)}, given)
    if not words or words[0].startswith("-"):
        raise UsageError(f"{name} needs an experiment's file first: deqjax {name} FILE [options].")
    from deqjax.training import load_experiment

    if not words[0]:
        raise UsageError(_EMPTY)
    kind, default = _COMMANDS[name].of(load_experiment(words[0]))
    if name != "sweep" or any(word in _HELP for word in words):
        found = _read({name: (kind, default)}, given)
        return dataclasses.replace(found, words=tuple(words)) if name == "train" else found
    runs = {
        label: _read({name: (kind, default)}, [name, words[0], *options])
        for label, options in combinations(words[1:]).items()
    }
    return dataclasses.replace(
        next(iter(runs.values())), runs={label: each.config for label, each in runs.items()}
    )


def _read(kinds: Mapping[str, tuple[type[Any], Any]], given: Sequence[str]) -> Any:
    commands = [
        _subcommand(name, kind, default, len(kinds)) for name, (kind, default) in kinds.items()
    ]
    # a union of one would be no choice of commands
    choice: Any = Union[(*commands, Annotated[None, tyro.conf.Suppress])]
    found, left_over = tyro.cli(
        choice,
        args=given,
        prog="deqjax",
        description=_DESCRIPTION,
        return_unknown_args=True,
    )
    if left_over:
        known = [f"--{option}" for option in _options(found)]
        command = " ".join(given[:2] if given[0] in _OF_EXPERIMENTS else given[:1])
        raise UsageError(
            f"{unknown('option', left_over[0], known)} (deqjax {command} --help lists all)"
        )
    _refuse_empty_paths(found, given)
    return found


def _refuse_empty_paths(command: Any, given: Sequence[str]) -> None:
    """Raise a UsageError for a path without a character, as of a shell variable that is not set.

    Path takes it for the current folder, which is written as a dot.
    """
    values = [getattr(command, field.name) for field in dataclasses.fields(command)]
    paths = [part for each in values for part in (each if isinstance(each, tuple) else (each,))]
    told = [word for word in given if word and Path(word.partition("=")[2] or word) == Path()]
    if paths.count(Path()) > len(told):
        raise UsageError(_EMPTY)


def _subcommand(name: str, kind: Any, default: Any, count: int) -> Any:
    settings: dict[str, Any] = {} if default is None else {"default": default}
    if count > 1:  # in a list of commands, the first sentence of each
        settings["description"] = str(kind.__doc__).partition("\n")[0]
    return Annotated[kind, tyro.conf.subcommand(name, prefix_name=False, **settings)]


def _options(command: Any, prefix: str = "") -> list[str]:
    """The names of a command's options; fields of those that stand for themselves have none."""
    names = []
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            inside = "" if field.name in ("config", "cluster") and not prefix else field.name + "."
            names += _options(value, prefix + inside)
        else:
            names.append(prefix + field.name)
    return names
