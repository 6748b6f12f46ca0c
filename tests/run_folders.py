"""Folders that runs leave behind, without training."""

import json

CONFIG = {
    "name": "tiny",
    "steps": 400,
    "seed": 0,
    "optimizer": {"warmup_steps": 40},
    "penalty": {"weight": 0.0, "probability": 0.5},
}


def validation(step, loss, **others):
    return {"step": step, "split": "validation", "loss": loss, "scored": 9.0, **others}


def training(step, **others):
    return {"step": step, "split": "train", "loss": 2.0, "steps_per_second": 4.0, **others}


def leave_run(folder, *records, checkpoints=(), config=CONFIG, **changes):
    """Write a folder as a run would, and return its path."""
    config = config | changes
    folder.mkdir(parents=True, exist_ok=True)
    stored = {"experiment": config["name"], "config": config, "versions": {}}
    (folder / "config.json").write_text(json.dumps(stored))
    for step in checkpoints:
        (folder / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder
