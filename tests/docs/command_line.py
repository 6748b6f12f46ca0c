"""Runs the shell commands of the documentation, or says why one cannot be what it seems.

Commands of `deqjax` run in this process, in a folder of their own, with options appended that make
them tiny. Of scripts that train for minutes only the options are parsed; so are those of commands
that take several machines.
"""

import argparse
import ast
import contextlib
import io
import itertools
import json
import re
import runpy
import shlex
import string
import tomllib
from pathlib import Path

from doc_pages import ROOT, blocks

from deqjax import cli
from deqjax.tasks.language import LanguageTask
from deqjax.tasks.reasoning import ReasoningTask
from deqjax.tasks.vision import VisionTask
from deqjax.training import load_experiment
from tiny import TINY_OPTIONS

# What compiles fastest, and a checkpoint that an evaluation has scored; test_cli.py has the rest.
PLAIN = shlex.split(
    "--penalty.weight 0 --log-every 1 --checkpoint-every 1"
    " --evaluation.every 1 --evaluation.batches 1 --evaluation.final-batches 1"
    " --evaluation.radius-batches 0"
)
SOLVER = shlex.split(
    "--task.network.solver.method picard --task.network.solver.adjoint jacobian_free"
    " --task.network.solver.max-steps 4"
)
SMALL_IMAGES = shlex.split(
    "--task.network.residual.channels 4 --task.network.residual.groups 2 --batch-size 8"
    " --optimizer.warmup-steps 0"
)
SMALL_PUZZLES = shlex.split(
    "--task.puzzles.count 64 --task.network.shape.width 16 --task.network.shape.layers 1"
    " --batch-size 8"
)
TINY = {  # by what an experiment trains; all else is a reader's own
    LanguageTask: [*TINY_OPTIONS, *SOLVER, *PLAIN],
    VisionTask: [*SMALL_IMAGES, *SOLVER, *PLAIN],
    ReasoningTask: [*SMALL_PUZZLES, *PLAIN],
}
TINY_OWN = ["--batch-size", "8", *PLAIN]
# The data that no newcomer has: these commands say how to get it, and end.
NEEDS_DATA = ("cifar10", "cityscapes", "imagenet", "wikitext")
SAYS_HOW = ("there is no WikiText", "is not prepared")
# what a sentence may leave out of a command, before its options
REQUIRED = {
    "compare": ["DIR"],
    "convert": ["model.pth", "--config", "model.json", "--out", "runs/converted"],
    "estimate": ["FILE"],
    "evaluate": ["DIR"],
    "generate": ["DIR", "text"],
    "inspect": ["DIR"],
    "prepare": ["FILE"],
    "runs": [],
    "sweep": ["FILE", "--seed", "0", "1"],
    "train": ["FILE"],
}
PLACEHOLDERS = {"FILE": "experiments/stdlib_lm.py", "DIR": "runs/DIR", "HOST:PORT": "127.0.0.1:1"}
# What runs each script's own logic, tiny.
SCRIPT_TESTS = {
    "accelerator.py": "test_parts_share_the_time_and_know_of_each_other",
    "benchmarks/solvers.py": "test_solver_benchmark_compares_counts_and_judges",
    "benchmarks/gradients.py": "test_gradient_benchmark_covers_every_rule",
    "benchmarks/eager.py": "test_eager_benchmark_times_calls_and_weighs_them",
    "benchmarks/kill_resume.py": "test_tiny_runs_are_valid_and_cross_checkpoints",
    "benchmarks/peer_failures.py": "test_every_case_expects_something",
    "estimates.py": "test_the_table_of_estimates_is_gathered",
    "golden.py": "test_every_kind_of_model_agrees",
}
SEVERAL_PROCESSES = (
    "training/devices/test_topology.py",
    "test_two_processes_train_as_one_stop_together_go_on_and_end_together",
)
ESTIMATE = ("cli/test_estimate.py", "test_it_tells_what_a_step_needs")
OVERLAYS = ("tasks/vision/test_overlays.py", "test_evaluate_prints_every_class_and_writes_pictures")


class WrongCommandError(AssertionError):
    """A command that a reader could not run."""


class CommandLine:
    """A newcomer's folder: the experiments, a text of 65 characters, and what commands leave."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "experiments").symlink_to(ROOT / "experiments")
        characters = f"{string.ascii_letters}.,;:'!?-&$3 \n"  # Shakespeare's
        (folder / "tinyshakespeare.txt").write_text(characters * 200)
        self._steps = {}  # of each run
        self._trained = {}  # command -> printed

    def write(self, page):
        """Write the files that a page shows, as its reader does."""
        for block in blocks(page):
            if named := re.fullmatch(r'title="(\w+\.py)"', block.title):
                (self.folder / named[1]).write_text(block.text)

    def run(self, line):
        """Run a line as a shell would, and return what it printed."""
        printed = ""
        for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
            printed = self._run(shlex.split(command))
        return printed

    def parse(self, line):
        """Check a command that stands in a sentence without running it."""
        words = shlex.split(line, comments=True)
        if words == ["python", "-m", "deqjax"]:
            self._main([], status=2)
        elif words == ["deqjax", "--version"]:
            self._main(words[1:])
        elif words[0] == "deqjax":
            self._parse(complete(words[1:]))
        elif words[1:] == ["experiments/golden.py"]:
            self._run([*words, "FILE"])
        else:
            self._run(words)

    def _run(self, words):
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
        known = {
            "bash": check_file,
            "deqjax": self._deqjax,
            "jupyter": check_jupyter,
            "mkdocs": check_mkdocs,
            "pip": check_pip,
            "pytest": check_pytest,
            "python": self._python,
            "python3": self._python,
            "sbatch": check_file,
        }
        if program not in known:
            raise WrongCommandError(f"no test knows the command {program!r}")
        return known[program](arguments)

    def _python(self, arguments):
        if arguments[0] == "-m":
            return self._run(arguments[1:]) if arguments[1] != "venv" else None
        if arguments[0].startswith("experiments/"):
            return check_script(arguments[0], arguments[1:])
        return check_file(arguments)

    def _deqjax(self, arguments):
        arguments = [PLACEHOLDERS.get(word, word) for word in arguments]
        match arguments[0]:
            case "train" if "--help" in arguments or "--coordinator" in arguments:
                return self._without_peers(arguments)
            case "train":
                return self._train(arguments[1:])
            case "convert":
                return self._convert(arguments)
            case "evaluate" | "estimate" if test := tested_elsewhere(arguments):
                check_test(*test)
                return self._parse(arguments)
            case "sweep":
                file, *options = arguments[1:]
                added = missing(tiny(load_experiment(self.folder / file)), options)
                return self._main(["sweep", file, *options, *added, "--steps", "2"])
            case "compare":
                words = [self._expand(word) for word in arguments[1:]]
                arguments = ["compare", *itertools.chain(*words)]
            case "generate":
                arguments += ["--count", "3"]
        if arguments[0] in ("inspect", "evaluate", "generate", "compare"):
            self._need(arguments[1])
        return self._main(arguments)

    def _expand(self, word):
        """What a shell makes of a word with a star."""
        found = sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(word))
        return found or [word]

    def _without_peers(self, arguments):
        """Help, or one of several processes: its options, and the run as a single one leaves it."""
        if "--help" in arguments:
            self._parse([word for word in arguments if word != "--help"])
            return self._main(arguments)
        check_test(*SEVERAL_PROCESSES)
        self._parse(arguments)
        for name in ("--coordinator", "--num-processes", "--process-id"):
            at = arguments.index(name)
            arguments = arguments[:at] + arguments[at + 2 :]
        return self._train(arguments[1:])

    def _train(self, arguments):
        file, *options = arguments
        if Path(file).stem.startswith(NEEDS_DATA):
            return self._main(["train", file, *options], status=1, says=SAYS_HOW)
        experiment = load_experiment(self.folder / file)
        folder = value_of(options, "--workdir") or f"runs/{experiment.name}"
        resumed = "--resume" in options
        if resumed:
            self._need(folder)
        elif " ".join(arguments) in self._trained:  # on another page already
            return self._trained[" ".join(arguments)]
        steps = self._steps.get(folder, 1) + 1
        if resumed:
            options = [word for word in options if word != "--resume"] + ["--resume"]
        options = without_devices(options)
        added = [*tiny(experiment), "--steps", str(steps)]
        printed = self._main(["train", file, *options, *added])
        self._steps[folder] = steps
        self._trained[" ".join(arguments)] = printed
        return printed

    def _need(self, folder):
        """Train the experiment whose run a command uses, if no command before it did."""
        if (self.folder / folder).exists():
            return
        name = re.sub(r"-\d+$", "", Path(folder).name)
        files = sorted((ROOT / "experiments").rglob(f"{name}.py"))
        if not files and name != "DIR":
            raise WrongCommandError(f"no experiment leaves a run in {folder}")
        file = files[0].relative_to(ROOT) if files else PLACEHOLDERS["FILE"]
        self._train([str(file), "--workdir", folder])

    def _convert(self, arguments):
        self._make_checkpoint()
        recipe = value_of(arguments, "--recipe")
        if recipe and Path(recipe).stem.startswith(NEEDS_DATA):
            return self._main(arguments, status=1, says=SAYS_HOW)
        return self._main(arguments)

    def _make_checkpoint(self):
        import torch
        from reference_transformer import SMALL, random_state

        tensors = {key: torch.from_numpy(value) for key, value in random_state(SMALL).items()}
        torch.save(tensors, self.folder / "model.pth")
        (self.folder / "model.json").write_text(json.dumps(SMALL))

    def _parse(self, arguments):
        """Parse the options of a command, which need not make sense together."""
        words = [PLACEHOLDERS.get(word, word) for word in arguments]
        words = [word for word in words if word != "--help"]  # which every command has
        try:
            with contextlib.redirect_stderr(io.StringIO()) as printed:
                return cli.parse(words)
        except (SystemExit, cli.UsageError) as error:
            said = printed.getvalue() or error
            raise WrongCommandError(f"deqjax {shlex.join(arguments)}: {said}") from error

    def _main(self, arguments, status=0, says=("",)):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                found = cli.main(arguments)
            except SystemExit as end:  # of --help
                found = end.code
        if found != status or not any(text in err.getvalue() for text in says):
            raise WrongCommandError(f"{shlex.join(arguments)} ended with {found}: {err.getvalue()}")
        return out.getvalue()


def tested_elsewhere(arguments):
    """The test that runs a command of which only the options are parsed here; None for others."""
    if arguments[0] == "estimate":  # compiles what is not tiny, some of it for chips that few have
        return ESTIMATE
    return OVERLAYS if "--overlays" in arguments else None


def tiny(experiment):
    """Options that make an experiment tiny."""
    return next((v for k, v in TINY.items() if isinstance(experiment.task, k)), TINY_OWN)


def missing(added, given):
    """Those of the added options, each with one value, that are not given."""
    pairs = zip(added[::2], added[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in given for word in pair]


def complete(arguments):
    """A command of a sentence with what it needs besides."""
    name, *options = arguments
    given = bool(options) and not options[0].startswith("-")
    return arguments if given else [name, *REQUIRED.get(name, []), *options]


def value_of(arguments, name):
    return arguments[arguments.index(name) + 1] if name in arguments else None


def without_devices(options):
    """The devices of this process are those that it has."""
    if "--devices" not in options:
        return options
    at = options.index("--devices")
    int(options[at + 1])
    return options[:at] + options[at + 2 :]


def check_file(arguments):
    if not (ROOT / arguments[0]).is_file():
        raise WrongCommandError(f"there is no {arguments[0]}")


def check_mkdocs(arguments):
    if arguments not in (["serve"], ["build", "--strict"]):
        raise WrongCommandError(f"mkdocs {' '.join(arguments)} is not what this project uses")


def check_pip(arguments):
    if arguments[0] != "install":
        raise WrongCommandError("pip is for installing")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    for word in arguments[1:]:
        if word in ("-e", "--quiet", "."):
            continue
        # not by its name, which no index has
        found = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        if not found or not set((found[1] or "docs").split(",")) <= extras.keys():
            raise WrongCommandError(f"pip cannot install {word}: the extras are {sorted(extras)}")


def check_jupyter(arguments):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    if arguments[0] != "lab" or not any("jupyterlab" in each for each in extras["notebooks"]):
        raise WrongCommandError("the extra notebooks does not install this")
    for word in arguments[1:]:
        check_file([f"{word}/01_fixed_points.ipynb"])


def check_pytest(arguments):
    arguments = [word for word in arguments if word != "-n" and not word.isdigit()]
    for word in arguments:
        if not (ROOT / word).exists():
            raise WrongCommandError(f"there are no tests {word}")


def check_test(file, name):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    if name not in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]:
        raise WrongCommandError(f"there is no test {name} in {file} any more")


class _ParsedError(Exception):
    """The options are right; go no further."""


def check_script(name, arguments):
    """Parse a script's options by its own parser, and look for the test of what follows."""
    check_file([name])
    short = name.removeprefix("experiments/")
    if short in SCRIPT_TESTS:
        together = ("solvers", "gradients", "eager")  # in one file
        file = "benchmarks" if Path(short).stem in together else None
        check_test(f"experiments/test_{file or Path(short).stem}.py", SCRIPT_TESTS[short])
    real = argparse.ArgumentParser.parse_args

    def parse(self, *given, **named):
        real(self, *given, **named)
        raise _ParsedError

    argparse.ArgumentParser.parse_args = parse
    try:
        runpy.run_path(str(ROOT / name), run_name="documentation")["main"](arguments)
    except _ParsedError:
        pass
    except SystemExit as end:
        raise WrongCommandError(f"{name} does not take {arguments}") from end
    else:
        raise WrongCommandError(f"{name} parses no options")
    finally:
        argparse.ArgumentParser.parse_args = real
