"""Folders that runs leave behind, without training."""

import json

from deqjax.training._workdir import Workdir, prepare_workdir

CONFIG = {
    "name": "tiny",
    "steps": 400,
    "seed": 0,
    "optimizer": {"warmup_steps": 40},
    "penalty": {"weight": 0.0, "probability": 0.5},
}


def validation(step, loss, **others):
    return {"step": step, "split": "validation", "loss": loss, "tokens_scored": 9.0, **others}


def training(step, **others):
    return {"step": step, "split": "train", "loss": 2.0, "steps_per_second": 4.0, **others}


def leave_run(folder, *records, checkpoints=(), **changes):
    """Write a folder as a run would, and return its path."""
    config = {name: changes.get(name, value) for name, value in (CONFIG | changes).items()}
    prepare_workdir(folder, experiment=config["name"], config=config, resume=False)
    for step in checkpoints:
        (Workdir(folder).checkpoints / str(step)).mkdir()
    lines = [json.dumps(record) + "\n" for record in records]
    Workdir(folder).metrics.write_text("".join(lines))
    return folder
