"""``deqjax convert``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deqjax.cli._tables import print_pairs
from deqjax.cli._usage import UsageError

if TYPE_CHECKING:
    from deqjax.training import Task


@dataclasses.dataclass(frozen=True)
class Convert:
    """Turn a published PyTorch checkpoint into a model.

    Attributes:
        checkpoint: a file with the state dict of a DEQ-Transformer, an MDEQ, an attractor
            language model or a reasoner (.pth, .pt, .bin, .safetensors); a folder with such a
            file and a config.json; or such a folder's name on the Hugging Face hub, OWNER/NAME.
        config: a JSON file with the options that it was trained with; by itself the folder's
            config.json.
        out: folder for the model; must not hold anything.
        recipe: an experiment's file, whose data and optimizer it shall have: the folder is then a
            run, to evaluate, to generate from, or to train on with --resume.
        file: a text file, instead of the recipe's.
        directory: folder of prepared data sets, instead of the recipe's.
        manual_directory: folder of downloaded archives, instead of the recipe's.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    out: Path
    config: Path | None = None
    recipe: Path | None = None
    file: Path | None = None
    directory: Path | None = None
    manual_directory: Path | None = None

    def run(self) -> int:
        """Convert, and print what came of it."""
        from deqjax.convert import convert_checkpoint, summary

        if self.recipe is None:
            model = convert_checkpoint(self.checkpoint, self.config, self.out)
        else:
            model = self._into_a_run(self.recipe)
        title = f"{self.checkpoint}, converted"
        print_pairs(title, (type(model).__name__, "value"), summary(model).items())
        print(f"{'model' if self.recipe is None else 'run'}: {self.out}")
        return 0

    def _into_a_run(self, file: Path) -> Any:
        from deqjax.convert import read_model
        from deqjax.training import adopt_model, load_experiment

        recipe = load_experiment(file)
        task = recipe.task
        for name in ("file", "directory", "manual_directory"):
            place = getattr(self, name)
            if place is not None:
                task = _placed(task, name, str(place), file)
        recipe = dataclasses.replace(recipe, task=task)
        model = read_model(self.checkpoint, self.config)
        adopt_model(model, recipe, self.out)
        return model


def _placed(task: "Task", name: str, place: str, file: Path) -> "Task":
    """The task with another place of its data, in whichever of its parts has a field for it.

    Raises:
        UsageError: none has.
    """
    for field in dataclasses.fields(task):
        part = getattr(task, field.name)
        if name in getattr(part, "__dataclass_fields__", ()):
            moved = dataclasses.replace(part, **{name: place})
            return dataclasses.replace(task, **{field.name: moved})
    raise UsageError(f"--{name} means nothing to {file}; leave it out.")
