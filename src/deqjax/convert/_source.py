"""Where a published model is: a checkpoint, a folder, or a name on the Hugging Face hub."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from deqjax._extras import needs
from deqjax.convert._errors import ConversionError, first_line

CONFIG = "config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_INDEX = ".index.json"
# what a training leaves beside its weights
_BESIDE = ("training_args", "optimizer", "scheduler", "rng_state", "random_states")
# "owner/name", as the hub writes it
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Source(NamedTuple):
    """The files of a model.

    Attributes:
        weights: one file, or the parts of a checkpoint that is written in several.
        config: a JSON file of options.
    """

    weights: tuple[Path, ...]
    config: Path


def find_source(checkpoint: Path | str, config: Path | str | None) -> Source:
    """The files of a checkpoint, of a folder with config.json and weights, or of the hub.

    Args:
        checkpoint: a file, a folder, or "owner/name".
        config: a JSON file; None is the folder's config.json.

    Raises:
        ConversionError: there are none, or several models are in a folder; for a name of the hub,
            it cannot be downloaded.
    """
    place = Path(checkpoint)
    if not place.exists() and _HUB_NAME.fullmatch(str(checkpoint)) and not place.suffix:
        place = _downloaded(str(checkpoint))
    if place.is_dir():
        return Source(_weights_in(place), place / CONFIG if config is None else Path(config))
    if config is None:
        raise ConversionError(
            f"{checkpoint} is no folder with a {CONFIG} beside its weights: give --config, a JSON "
            "file with the options that it was trained with."
        )
    return Source((place,), Path(config))


def _weights_in(folder: Path) -> tuple[Path, ...]:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    names = [name for name in names if not name.startswith(_BESIDE)]
    # the same weights often lie there twice
    if any(name.endswith(".safetensors") for name in names):
        names = [name for name in names if ".safetensors" in name]
    indices = [name for name in names if name.endswith(_INDEX)]
    if len(indices) == 1:
        return _parts_in(folder, indices[0])
    found = [name for name in names if name.endswith(_WEIGHTS)]
    if len(found) == 1:
        return (folder / found[0],)
    if not found:
        raise ConversionError(f"{folder} holds no weights ({', '.join(_WEIGHTS)}).")
    raise ConversionError(
        f"{folder} holds several checkpoints ({', '.join(found)}); name the file to convert, and "
        f"give --config {folder / CONFIG}."
    )


def _parts_in(folder: Path, index: str) -> tuple[Path, ...]:
    """The files that an index names."""
    try:
        named = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
        parts = sorted({str(Path(name).name) for name in named})
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConversionError(
            f"{folder / index} is no index of a checkpoint's parts; copy or download it again."
        ) from error
    return tuple(folder / part for part in parts)


def _downloaded(name: str) -> Path:
    reason = f"there is no folder {name}, and downloading it from the Hugging Face hub"
    with needs("hub", reason, ConversionError):
        from huggingface_hub import snapshot_download
    wanted = [CONFIG, *(f"*{suffix}" for suffix in (*_WEIGHTS, _INDEX))]
    left = [f"{each}*" for each in _BESIDE]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=left))
    except Exception as error:  # whatever its network library raises
        raise ConversionError(
            f"there is no folder {name}, and it cannot be downloaded from the Hugging Face hub "
            f"({first_line(error)}); check the name and the network, or give a folder that holds "
            "it."
        ) from error
