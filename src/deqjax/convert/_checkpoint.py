"""Reading a PyTorch checkpoint as named NumPy arrays."""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deqjax._extras import needs
from deqjax.convert._errors import ConversionError, first_line
from deqjax.convert._safetensors import read_safetensors

# torch.nn.DataParallel and torch.compile put the model that they wrap under these names
_WRAPPERS = ("module.", "_orig_mod.")
# what torch.load and zipfile were seen to raise on texts, cut files and flipped bytes
_UNREADABLE = (RuntimeError, LookupError, OSError, EOFError, struct.error, zipfile.BadZipFile)


def read_state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """The state dict of a checkpoint that ``torch.save`` or safetensors wrote.

    A state dict inside another dict, such as ``{"model_state_dict": ..., "epoch": ...}``, is found
    if it is the only one, and the prefixes "module." of data-parallel models and "_orig_mod." of
    compiled ones are dropped. Only tensors are unpickled (``weights_only=True``), so a checkpoint
    cannot run code.

    Returns:
        Key to array; floating-point arrays in float32 (half precision is exact in it), others as
        they are.

    Raises:
        ConversionError: PyTorch (for the other format, safetensors) is not installed, there is no
            such file, it is no checkpoint, is damaged, or holds anything else than one state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise ConversionError(f"there is no file {file}; name a checkpoint (.pth).")
    if file.suffix == ".safetensors":
        return dict(_without_prefix(read_safetensors(file)))
    tensors = _without_prefix(_state_dict_in(_load(file), file))
    return {key: _to_numpy(tensor) for key, tensor in tensors.items()}


def _load(file: Path) -> Any:
    with needs("torch", f"reading {file}", ConversionError):
        import torch
    try:
        _check_sums(file)
        with warnings.catch_warnings():
            # about how a file was pickled: either it is read, or the error below says why not
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{file} is not a checkpoint of tensors alone (no checkpoint at all, or a whole "
            "pickled model); save model.state_dict() with torch.save and convert that."
        ) from error
    except _UNREADABLE as error:
        raise ConversionError(
            f"{file} is damaged or not a PyTorch checkpoint ({first_line(error)}); copy or "
            "download it again."
        ) from error


def _check_sums(file: Path) -> None:
    """PyTorch reads flipped bits of a tensor as they are; the archive's checksums tell them."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


def _state_dict_in(found: Any, file: Path) -> Mapping[str, Any]:
    """The state dict that a loaded object is, or holds."""
    if _is_state_dict(found):
        state: Mapping[str, Any] = found
        return state
    if not isinstance(found, Mapping):
        raise ConversionError(
            f"{file} holds a {type(found).__name__}, not a state dict; save model.state_dict()."
        )
    if any(_is_tensor(value) for value in found.values()):
        others = [str(key) for key, value in found.items() if not _is_tensor(value)]
        raise ConversionError(
            f"{file} holds tensors and other things side by side ({', '.join(others)}); save "
            "model.state_dict() alone."
        )
    inside = [key for key, value in found.items() if _is_state_dict(value)]
    if len(inside) != 1:
        among = ", ".join(map(str, inside)) or f"none among: {', '.join(map(str, found))}"
        raise ConversionError(
            f"{file} holds {len(inside)} state dicts ({among}), not one; save the one to convert "
            "alone."
        )
    state = found[inside[0]]
    return state


def _without_prefix(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for prefix in _WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _is_state_dict(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(key, str) and _is_tensor(value) for key, value in found.items())
    )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _to_numpy(tensor: Any) -> np.ndarray:
    detached = tensor.detach()
    array: np.ndarray = (detached.float() if detached.is_floating_point() else detached).numpy()
    return array
