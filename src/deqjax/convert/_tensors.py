"""From PyTorch's tensors to NumPy's arrays, where they are plain numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deqjax.convert._errors import ConversionError

# numbers that are in the tensors but not in the file: 64 MiB in float32
_MOST_REPEATED = 2**24
_MOST_NAMES = 5


def to_arrays(state: Mapping[str, Any], file: Path) -> dict[str, np.ndarray]:
    """Key to array: floating-point tensors in float32, others as they are.

    No memory is asked for before all are known to be plain and of a size that the file explains.

    Args:
        state: key to tensor, all on the CPU or on the device "meta".
        file: where they come from, for the sentence.

    Raises:
        ConversionError: tensors are without numbers, quantized, sparse or of a type that NumPy does
            not have, or repeat a few numbers to an immense size.
    """
    faults = {key: fault for key, tensor in state.items() if (fault := _fault(tensor))}
    if faults:
        told = [f"{key} ({fault})" for key, fault in faults.items()]
        more = f" and {len(told) - _MOST_NAMES} more" if len(told) > _MOST_NAMES else ""
        raise ConversionError(
            f"{file} holds tensors that are no plain arrays of numbers: "
            f"{', '.join(told[:_MOST_NAMES])}{more}; save the model with its weights loaded, dense "
            "and in float32."
        )
    _refuse_immense(state, file)
    return {key: _to_array(tensor) for key, tensor in state.items()}


def _fault(tensor: Any) -> str | None:
    import torch

    if tensor.is_meta:
        return "meta: a shape without numbers"
    if tensor.is_quantized:
        return f"quantized, {tensor.dtype}"
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return f"sparse, {tensor.layout}"
    try:
        _to_array(torch.empty(0, dtype=tensor.dtype))
    except (TypeError, RuntimeError):  # what PyTorch raises for types that NumPy lacks
        return f"{tensor.dtype}, which NumPy does not have"
    return None


def _refuse_immense(state: Mapping[str, Any], file: Path) -> None:
    """An expanded tensor has any shape and takes a few bytes of the file."""
    stored = {
        key: tensor.untyped_storage().nbytes() // tensor.element_size()
        for key, tensor in state.items()
    }
    repeated = {
        key: tensor.numel() for key, tensor in state.items() if tensor.numel() > stored[key]
    }
    if sum(repeated.values()) > _MOST_REPEATED:
        key = max(repeated, key=repeated.__getitem__)
        shape = tuple(state[key].shape)
        raise ConversionError(
            f"{key} in {file} has shape {shape}, {math.prod(shape):,} numbers, of which the file "
            f"holds {stored[key]:,}; save what it was expanded from, or leave it out."
        )


def _to_array(tensor: Any) -> np.ndarray:
    plain = tensor.detach().resolve_conj().resolve_neg()
    array: np.ndarray = (plain.float() if plain.is_floating_point() else plain).numpy()
    return array
