"""The command line: ``deqjax train | inspect | evaluate | generate | convert``."""

import dataclasses
import difflib
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from deqjax.training import Outcome, RunConfig

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


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """Report how well a run does, finished or under way, and redraw its picture.

    Attributes:
        workdir: folder of the run.
        json: print the report as JSON.
    """

    workdir: Path
    json: bool = False


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Score a run's newest checkpoint.

    Attributes:
        workdir: folder of the run.
        split: which part of the data to score.
        overlays: folder for pictures of a segmentation's first images, labels and predictions.
        checkpoint: "newest", "best" (lowest validation loss), or a step.
        max_steps: forward steps at most, instead of the run's.
        tol: relative tolerance of the solve, instead of the run's.
        devices: number of virtual CPU devices; without it, every device of the machine.
        depths: step limits to score it at, without tolerance, instead of the usual table.
    """

    workdir: Path
    split: Literal["validation", "test"] = "validation"
    checkpoint: Literal["newest", "best"] | int = "newest"
    max_steps: int | None = None
    tol: float | None = None
    devices: int | None = None
    overlays: Path | None = None
    depths: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Continue a prompt with a run's newest checkpoint.

    Attributes:
        workdir: folder of the run.
        prompt: text to continue.
        count: tokens to generate: bytes, characters or words.
        temperature: of the sampling; 0 takes the most likely token.
        top_k: draw from so many of the most likely tokens; 0 is all.
        top_p: draw from the fewest most likely tokens whose probabilities sum to this; 1 is all.
        seed: of the sampling.
        compare_warm_start: solve the same text once more, each token from zero instead of from its
            last equilibrium, and print the steps of both.
    """

    workdir: Path
    prompt: str
    count: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    compare_warm_start: bool = False


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """Turn a published PyTorch checkpoint into a model.

    Attributes:
        checkpoint: a .pth file with the state dict of a DEQ-Transformer or an MDEQ.
        config: a JSON file with the options that it was trained with.
        out: folder for the model; must not hold anything.
        recipe: an experiment's file, whose data and optimizer it shall have: the folder is then a
            run, to evaluate, to generate from, or to train on with --resume.
        file: a text file, instead of the recipe's.
        directory: folder of prepared data sets, instead of the recipe's.
        manual_directory: folder of downloaded archives, instead of the recipe's.
    """

    checkpoint: tyro.conf.Positional[Path]
    config: Path
    out: Path
    recipe: Path | None = None
    file: Path | None = None
    directory: Path | None = None
    manual_directory: Path | None = None


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
    from deqjax._experiments import load_experiment
    from deqjax.training.workdir import newest_run, next_free

    file = arguments[0]
    experiment = load_experiment(file)
    options = _parse(_train_options(experiment), arguments[1:], f"deqjax train {file}", experiment)
    _use_devices(options.devices)
    workdir = options.workdir
    if workdir is None:
        if options.cluster.coordinator is not None:
            raise UsageError("--coordinator needs --workdir, the same folder for all processes.")
        usual = Path("runs") / options.config.name
        workdir = newest_run(usual) if options.resume else next_free(usual)
    peers = training.join(options.cluster)
    training.keep_compiled_programs(workdir)
    outcome = training.train(
        options.config,
        workdir,
        resume=options.resume,
        peers=peers,
        profile=options.profile,
    )
    if peers.first:
        _report_training(outcome, options.config, file)
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
        workdir: Path | None = None
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

    from deqjax.training.picture import save_run_picture
    from deqjax.training.report import inspect_run
    from deqjax.training.report_text import as_json, print_report
    from deqjax.training.workdir import Workdir, WorkdirError

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
    _table(f"{options.workdir}, {options.split} data", evaluate_run(options.workdir, **asked))
    if options.overlays is not None:
        print(f"{len(files)} pictures (image, labels, prediction): {options.overlays}")
    return 0


def _sweep(options: EvaluateOptions) -> int:
    """Score a run at each of the depths that are asked for."""
    for name in ("max_steps", "tol", "overlays"):
        if getattr(options, name) is not None:
            raise UsageError(f"--depths says how far to solve; drop --{name.replace('_', '-')}.")
    from rich.console import Console
    from rich.table import Table

    from deqjax.training.depths import sweep_depths

    found = sweep_depths(
        options.workdir, options.depths or (), split=options.split, checkpoint=options.checkpoint
    )
    title = f"{options.workdir}, {options.split} data, by solver steps"
    table = Table(title=title, title_justify="left")
    names = [*found[0].others, "loss", "forward_residual"]
    for name in ("solver steps", *(_ROWS[name][0] for name in names)):
        table.add_column(name, justify="right")
    for each in found:
        values = each.others | {"loss": each.loss, "forward_residual": each.residual}
        table.add_row(str(each.depth), *(_ROWS[name][1].format(values[name]) for name in names))
    Console().print(table)
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
        from deqjax._experiments import load_experiment
        from deqjax.training import adopt_model

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
    from deqjax._experiments import ExperimentError
    from deqjax.convert import ConversionError
    from deqjax.data import DataError
    from deqjax.training import (
        CheckpointError,
        ConfigError,
        DivergenceError,
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


def _report_training(outcome: "Outcome", config: "RunConfig", file: str) -> None:
    folder = outcome.workdir.path
    if outcome.metrics is None:
        saved = "a checkpoint was saved"
        if outcome.rescued is not None:
            saved = f"its checkpoint lies in {outcome.rescued}: move it to {folder}/checkpoints"
        print(
            f"stopped at step {outcome.step} of {config.steps}; {saved}. Continue "
            f"with: deqjax train {file} --workdir {folder} --resume"
        )
        return
    _table(f"{config.name} after {outcome.step} steps, validation data", outcome.metrics)
    print(
        f"trained in {outcome.seconds:.0f} s; picture: {outcome.workdir.picture}, "
        f"records: {outcome.workdir.metrics}"
    )
    if outcome.rescued is not None:
        print(
            f"the last checkpoint could not be saved there, and lies in {outcome.rescued}: move it "
            f"to {folder}/checkpoints"
        )
    if "tokens_scored" in outcome.metrics:
        print(f"try: deqjax generate --workdir {folder} --prompt 'the '")
    else:
        print(f"try: deqjax evaluate --workdir {folder} --split test")


_ROWS = {
    "top1": ("accuracy", "{:.2%}"),
    "top5": ("label among the first five", "{:.2%}"),
    "mean_iou": ("mean intersection over union", "{:.4f}"),
    "loss": ("loss, nats", "{:.4f}"),
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "bigram_bits_per_byte": ("bits per byte of a bigram model, same bytes", "{:.4f}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "bigram_loss": ("loss of a bigram model, same tokens", "{:.4f}"),
    "tokens_scored": ("tokens scored", "{:,.0f}"),
    "labels_scored": ("labels scored", "{:,.0f}"),
    "forward_steps": ("solver steps, mean", "{:.1f}"),
    "forward_residual": ("residual, mean", "{:.1e}"),
    "forward_converged": ("samples converged", "{:.1%}"),
    "forward_diverged": ("samples diverged", "{:.1%}"),
    "spectral_radius": ("spectral radius, mean", "{:.3f}"),
    "spectral_radius_max": ("spectral radius, largest", "{:.3f}"),
}


def _table(title: str, metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    for name, (label, form) in _ROWS.items():
        # bytes are told in bits, as everyone compares them
        if name in metrics and not ("bits_per_byte" in metrics and name.endswith("loss")):
            table.add_row(label, form.format(metrics[name]))
    for name, value in metrics.items():
        if name.startswith("iou/"):
            shown = "does not occur" if math.isnan(value) else f"{value:.4f}"
            table.add_row(f"  {name.removeprefix('iou/')}", shown)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
