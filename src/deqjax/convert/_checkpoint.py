"""Reading a PyTorch checkpoint as named NumPy arrays."""

from pathlib import Path

import numpy as np

from deqjax.convert._errors import ConversionError
from deqjax.convert._pytorch import read_pytorch
from deqjax.convert._safetensors import read_safetensors
from deqjax.convert._wrappers import without_wrappers

_ZIP = b"PK\x03\x04"
_LFS_POINTER = b"version https://git-lfs."


def read_state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """The state dict of a checkpoint that ``torch.save`` or safetensors wrote.

    A state dict inside another dict, such as ``{"model_state_dict": ..., "epoch": ...}``, is found
    if it is the only one; counters, scores and random states beside it do not matter. The prefixes
    of wrappers are dropped where all keys have them: "module." of data-parallel models,
    "_orig_mod." of compiled ones, "model." of trainers, and several of these. Only tensors are
    unpickled (``weights_only=True``), so a checkpoint cannot run code.

    Returns:
        Key to array; floating-point arrays in float32 (half precision is exact in it), others as
        they are.

    Raises:
        ConversionError: PyTorch (for the other format, safetensors) is not installed, there is no
            such file, it is no checkpoint, is damaged, or holds anything else than one state dict
            of plain arrays.
    """
    return without_wrappers(read_tensors(path))


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """As `read_state_dict`, with the names that are in the file.

    Raises:
        ConversionError: likewise.
    """
    file = Path(path)
    if not file.is_file():
        raise ConversionError(f"there is no file {file}; name a checkpoint (.pth).")
    return read_safetensors(file) if _is_safetensors(file) else read_pytorch(file)


def _is_safetensors(file: Path) -> bool:
    """By what is in it: both formats are found under names of the other."""
    try:
        with file.open("rb") as stream:
            begin = stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise ConversionError(
            f"{file} cannot be read ({error.strerror}); make it readable."
        ) from error
    if begin.startswith(_LFS_POINTER):
        raise ConversionError(
            f"{file} is a pointer of Git LFS, not the checkpoint itself; fetch that: git lfs pull."
        )
    if begin.startswith(_ZIP):
        return False
    # the length of a header in eight bytes, and the header, in JSON
    return file.suffix == ".safetensors" or (begin[8:9] == b"{" and begin[6:8] == b"\0\0")
