"""The command line: ``deqjax train | inspect | evaluate | generate | convert``."""

import dataclasses
import difflib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from deqjax.cli._options import (
    ConvertOptions,
    EvaluateOptions,
    GenerateOptions,
    InspectOptions,
)
from deqjax.cli._tables import print_depths, print_outcome, print_scores

if TYPE_CHECKING:
    from deqjax.training import RunConfig

_USAGE = """usage: deqjax COMMAND ...

commands:
  train FILE       train the experiment that a Python file describes
  inspect          report how well a run does, and redraw its picture
  evaluate         score a run's newest checkpoint
  generate         continue a prompt with a run's newest checkpoint
  convert          turn a published PyTorch checkpoint into a model

deqjax COMMAND --help lists the options of a command, deqjax train FILE --help every field of the
experiment, with its default."""

Options = TypeVar("Options")


class UsageError(ValueError):
    """A command line that makes no sense."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 1 for an error, 2 for usage, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "inspect": _inspect,
        "evaluate": _evaluate,
        "generate": _generate,
        "convert": _convert,
    }
    if not given or given[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if given else 2
    try:
        if given[0] not in commands:
            raise UsageError(_unknown("command", given[0], list(commands)))
        return commands[given[0]](given[1:])
    except UsageError as error:
        print(f"deqjax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deqjax: interrupted", file=sys.stderr)
        return 130
    except _expected_errors() as error:
        print(f"deqjax: error: {error}", file=sys.stderr)
        return 1


def _train(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(
            "usage: deqjax train FILE [options]\n\nFILE --help lists every field of FILE's config."
        )
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("train needs an experiment's file first: deqjax train FILE [options].")
    from deqjax import training

    file = arguments[0]
    experiment = training.load_experiment(file)
    options = _parse(_train_options(experiment), arguments[1:], f"deqjax train {file}", experiment)
    _use_devices(options.devices)
    if options.workdir is None and options.cluster.coordinator is not None:
        raise UsageError("--coordinator needs --workdir, the same folder for all processes.")
    peers = training.join(options.cluster)
    usual = Path("runs") / options.config.name
    training.keep_compiled_programs(usual if options.workdir is None else options.workdir)
    outcome = training.train(
        options.config,
        options.workdir,
        resume=options.resume,
        peers=peers,
        profile=options.profile,
    )
    if peers.first:
        print_outcome(outcome, options.config, file)
    status = 130 if outcome.stopped_by == signal.SIGINT else 0
    status = 1 if outcome.rescued is not None else status
    peers.exit(status)
    return status


def _train_options(experiment: "RunConfig") -> Any:
    """The options of ``train``: its own and, without prefix, every field of the experiment."""
    from deqjax.training import ClusterOptions

    kind = type(experiment)

    @dataclasses.dataclass(frozen=True)
    class TrainOptions:
        """Train an experiment.

        Attributes:
            config: the experiment.
            workdir: folder of the run; by default the first free one of runs/NAME, runs/NAME-2, ...
            resume: go on from the newest checkpoint in the folder.
            devices: number of virtual CPU devices; without it, every device of the machine.
            profile: write a profiler's trace of five steps into the folder.
            cluster: the processes that train together.
        """

        config: Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        # as text, because a path cannot be empty: "" is the current folder
        workdir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
        resume: bool = False
        devices: int | None = None
        profile: bool = False
        cluster: Annotated[ClusterOptions, tyro.conf.arg(name="")] = dataclasses.field(
            default_factory=ClusterOptions
        )

    return TrainOptions(experiment)


def _inspect(arguments: list[str]) -> int:
    options = _parse(InspectOptions, arguments, "deqjax inspect")
    from rich.console import Console

    from deqjax.training import Workdir, WorkdirError
    from deqjax.training.report import as_json, inspect_run, print_report, save_run_picture

    report = inspect_run(options.workdir)
    if options.json:
        print(as_json(report))
    else:
        print_report(report, Console())
    try:
        picture = save_run_picture(Workdir(options.workdir))
    except WorkdirError as error:  # somebody else's run may be inspected too
        print(f"deqjax: {error}", file=sys.stderr)
    else:
        if not options.json:
            print(f"picture: {picture}")
    return 0


def _evaluate(arguments: list[str]) -> int:
    options = _parse(EvaluateOptions, arguments, "deqjax evaluate")
    _use_devices(options.devices)
    if options.depths is not None:
        return _sweep(options)
    from deqjax.training import evaluate_run, write_overlays

    asked: dict[str, Any] = {
        "split": options.split,
        "checkpoint": options.checkpoint,
        "max_steps": options.max_steps,
        "tol": options.tol,
    }
    files = []
    if options.overlays is not None:  # first, because it may be refused
        files = write_overlays(options.workdir, options.overlays, **asked)
    print_scores(f"{options.workdir}, {options.split} data", evaluate_run(options.workdir, **asked))
    if options.overlays is not None:
        print(f"{len(files)} pictures (image, labels, prediction): {options.overlays}")
    return 0


def _sweep(options: EvaluateOptions) -> int:
    """Score a run at each of the depths that are asked for."""
    for name in ("max_steps", "tol", "overlays"):
        if getattr(options, name) is not None:
            raise UsageError(f"--depths says how far to solve; drop --{name.replace('_', '-')}.")
    from deqjax.training import sweep_depths

    found = sweep_depths(
        options.workdir, options.depths or (), split=options.split, checkpoint=options.checkpoint
    )
    title = f"{options.workdir}, {options.split} data, by solver steps"
    print_depths(title, found)
    return 0


def _generate(arguments: list[str]) -> int:
    options = _parse(GenerateOptions, arguments, "deqjax generate")
    from deqjax.training import generate_text

    text = generate_text(
        options.workdir,
        options.prompt,
        count=options.count,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    print(text.prompt, end="", flush=True)
    for piece in text:
        print(piece, end="", flush=True)
    print()
    if text.steps:
        line = f"solver steps a token: {fmean(text.steps):.2f} with the warm start"
        if options.compare_warm_start:
            line += f", {fmean(text.steps_without_warm_start()):.2f} without"
        print(line, file=sys.stderr)
    elif options.compare_warm_start:
        print("an explicit model solves nothing: no warm start to compare.", file=sys.stderr)
    return 0


def _convert(arguments: list[str]) -> int:
    options = _parse(ConvertOptions, arguments, "deqjax convert")
    from rich.console import Console
    from rich.table import Table

    from deqjax.convert import convert_checkpoint, read_model, summary

    if options.recipe is None:
        model = convert_checkpoint(options.checkpoint, options.config, options.out)
    else:
        from deqjax.training import adopt_model, load_experiment

        recipe = load_experiment(options.recipe)
        places: dict[str, Any] = {
            name: str(getattr(options, name))
            for name in ("file", "directory", "manual_directory")
            if getattr(options, name) is not None
        }
        changed: Any = recipe  # kinds of runs differ in their data's fields
        for name in places:
            if not hasattr(changed.data, name):
                raise UsageError(f"--{name} means nothing to {options.recipe}; leave it out.")
        recipe = dataclasses.replace(changed, data=dataclasses.replace(changed.data, **places))
        model = read_model(options.checkpoint, options.config)
        adopt_model(model, recipe, options.out)
    table = Table(title=f"{options.checkpoint}, converted", title_justify="left")
    table.add_column(type(model).__name__)
    table.add_column("value", justify="right")
    for name, value in summary(model).items():
        table.add_row(name, value)
    Console().print(table)
    print(f"{'model' if options.recipe is None else 'run'}: {options.out}")
    return 0


def _parse(
    kind: Any, arguments: list[str], program: str, experiment: "RunConfig | None" = None
) -> Any:
    """Parse options; raise UsageError for one that does not exist, with the nearest that does."""
    if experiment is None:
        options, unknown = tyro.cli(kind, args=arguments, prog=program, return_unknown_args=True)
    else:
        options, unknown = tyro.cli(
            type(kind), default=kind, args=arguments, prog=program, return_unknown_args=True
        )
    if unknown:
        known = _fields(options) + (_fields(experiment) if experiment else [])
        raise UsageError(
            f"{_unknown('option', unknown[0], [f'--{name}' for name in known])} "
            f"({program} --help lists all)"
        )
    return options


def _fields(options: Any, prefix: str = "") -> list[str]:
    """Dotted names of a dataclass's fields, nested ones included."""
    names = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            names += _fields(value, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.split("=", maxsplit=1)[0], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"there is no {what} {name!r}{hint}"


def _use_devices(count: int | None) -> None:
    """Split the CPU into virtual devices, which must happen before JAX starts."""
    if count is None:
        return
    if count < 1:
        raise UsageError(f"--devices must be at least 1, got {count}.")
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose sentence is all that a user needs; anything else is a bug with a traceback."""
    from deqjax.convert import ConversionError
    from deqjax.data import DataError
    from deqjax.training import (
        CheckpointError,
        ConfigError,
        DivergenceError,
        ExperimentError,
        MetricsError,
        PeerError,
        ReplicaError,
        WorkdirError,
    )

    return (
        CheckpointError,
        ConfigError,
        ConversionError,
        DataError,
        DivergenceError,
        ExperimentError,
        MetricsError,
        PeerError,
        ReplicaError,
        WorkdirError,
    )
