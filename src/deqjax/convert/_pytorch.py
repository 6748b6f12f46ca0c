"""Reading what torch.save wrote: tensors alone, and one state dict of them."""

import contextlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from deqjax._extras import needs
from deqjax.convert._errors import ConversionError, first_line
from deqjax.convert._tensors import to_arrays

# how PyTorch says what it does not unpickle
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_FOLDER = 0x10  # the attribute of a zip archive's entry
_REASON = re.compile(r"WeightsUnpickler error:\s*(.*)")


def read_pytorch(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file's state dict: floating-point arrays in float32, others as they are.

    Raises:
        ConversionError: PyTorch is not installed, or the file is damaged or holds anything else
            than one state dict of plain arrays.
    """
    return to_arrays(_state_dict_in(_load(file), file), file)


def _load(file: Path) -> Any:
    with needs("torch", f"reading {file}", ConversionError):
        import torch
    try:
        _check_sums(file)
        with file.open("rb") as stream, warnings.catch_warnings():
            # about how a file was written: either it is read, or an error below says why not
            warnings.simplefilter("ignore")
            # a stream, because of a path PyTorch looks at the suffix
            return torch.load(stream, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = _refused(file, error)
        if refused:
            raise ConversionError(
                f"{file} is not a checkpoint of tensors alone: it also holds {', '.join(refused)}, "
                "which PyTorch does not unpickle because that may run code. If you trust it, save "
                "its state dict alone: torch.save(torch.load(FILE, weights_only=False)[KEY], "
                "'weights.pth'), or of a whole pickled model its state_dict()."
            ) from error
        reason = _REASON.search(str(error))
        raise _damaged(file, reason[1] if reason and reason[1] else "no pickled tensors") from error
    except Exception as error:  # flipped bytes were seen to raise nearly every kind
        raise _damaged(file, first_line(error)) from error


def _damaged(file: Path, reason: str) -> ConversionError:
    return ConversionError(
        f"{file} is damaged or not a PyTorch checkpoint ({reason}); copy or download it again."
    )


def _refused(file: Path, error: UnpicklingError) -> list[str]:
    """The classes and functions that PyTorch does not unpickle; none if that is not why."""
    first = _REFUSED.search(str(error))
    if first is None:
        return []
    names = {first[1]}
    with contextlib.suppress(Exception):  # PyTorch before 2.5, and files of before 1.6, tell one
        from torch.serialization import get_unsafe_globals_in_checkpoint

        names.update(get_unsafe_globals_in_checkpoint(file))
    return sorted(names)


def _check_sums(file: Path) -> None:
    """PyTorch reads flipped bits of a tensor as they are; the archive's checksums tell them."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            # PyTorch may leave all sums out, to save faster
            bad = archive.testzip() if any(entry.CRC for entry in entries) else None
            folders = [entry.filename for entry in entries if entry.external_attr & _FOLDER]
        if bad is not None:
            raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")
        if folders:  # of which PyTorch reads nothing, and gives whatever was in memory
            raise zipfile.BadZipFile(f"{folders[0]} is marked as a folder")


def _state_dict_in(found: Any, file: Path) -> Mapping[str, Any]:
    """The state dict that a loaded object is, or holds."""
    if _is_state_dict(found):
        state: Mapping[str, Any] = found
        return state
    if not isinstance(found, Mapping):
        raise ConversionError(
            f"{file} holds a {type(found).__name__}, not a state dict; save model.state_dict()."
        )
    inside = [key for key, value in found.items() if _is_state_dict(value) and _has_weights(value)]
    tensors = [key for key, value in found.items() if _is_tensor(value)]
    # beside a state dict they are counters and random states, but those with dots are weights
    if tensors and (not inside or any("." in str(key) for key in tensors)):
        others = [str(key) for key in found if key not in tensors]
        raise ConversionError(
            f"{file} holds tensors and other things side by side ({', '.join(others)}); save "
            "model.state_dict() alone."
        )
    if len(inside) != 1:
        among = ", ".join(map(str, inside)) or f"none among: {', '.join(map(str, found))}"
        raise ConversionError(
            f"{file} holds {len(inside)} state dicts ({among}), not one; save the one to convert "
            "alone."
        )
    state = found[inside[0]]
    return state


def _is_state_dict(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(key, str) and _is_tensor(value) for key, value in found.items())
    )


def _has_weights(state: Mapping[str, Any]) -> bool:
    """Scores and random states are tensors by name, too."""
    return any(
        tensor.dim() > 0
        and (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
        for tensor in state.values()
    )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
