"""The options of the commands; ``train`` has those of its experiment besides."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro


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
