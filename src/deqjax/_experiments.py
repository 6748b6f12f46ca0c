"""Experiments are Python files with a function ``config() -> TrainConfig``."""

import importlib.util
import sys
from pathlib import Path

from deqjax.training import TrainConfig


class ExperimentError(ValueError):
    """A file is no experiment."""


def load_experiment(path: Path | str) -> TrainConfig:
    """Run an experiment's file and return the configuration that it builds.

    Raises:
        ExperimentError: there is no such file, or no function ``config`` in it that returns a
            TrainConfig.
    """
    file = Path(path)
    if not file.is_file():
        here = sorted(str(p) for p in Path("experiments").glob("*.py"))
        known = f" (found here: {', '.join(here)})" if here else ""
        raise ExperimentError(
            f"there is no experiment file {file}{known}; give the path of a Python file with a "
            "function config() that returns a deqjax.training.TrainConfig."
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
        raise ExperimentError(f"{file} has no function config() that returns a TrainConfig.")
    config = build()
    if not isinstance(config, TrainConfig):
        raise ExperimentError(
            f"config() in {file} returns a {type(config).__name__}, not a "
            "deqjax.training.TrainConfig."
        )
    return config
