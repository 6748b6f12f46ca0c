"""Experiments are Python files with ``config() -> TrainConfig`` or ``-> VisionConfig``."""

import importlib.util
import sys
from pathlib import Path

from deqjax.training._config import RunConfig


class ExperimentError(ValueError):
    """A file is no experiment."""


def load_experiment(path: Path | str) -> RunConfig:
    """Run an experiment's file and return the configuration that it builds.

    Raises:
        ExperimentError: there is no such file, or no function ``config`` in it that returns a
            TrainConfig or a VisionConfig.
    """
    file = Path(path)
    if not file.is_file():
        files = sorted(Path("experiments").rglob("*.py"))
        here = [str(each) for each in files if "def config(" in each.read_text(encoding="utf-8")]
        known = f" (found here: {', '.join(here)})" if here else ""
        raise ExperimentError(
            f"there is no experiment file {file}{known}; give the path of a Python file with a "
            "function config() that returns a deqjax.training.TrainConfig or VisionConfig."
        )
    spec = importlib.util.spec_from_file_location(f"deqjax_experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{file} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up here while the file runs
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    build = getattr(module, "config", None)
    if not callable(build):
        raise ExperimentError(
            f"{file} has no function config() that returns a TrainConfig or VisionConfig."
        )
    config = build()
    if not isinstance(config, RunConfig):
        raise ExperimentError(
            f"config() in {file} returns a {type(config).__name__}, not a "
            "deqjax.training.TrainConfig or VisionConfig."
        )
    return config
