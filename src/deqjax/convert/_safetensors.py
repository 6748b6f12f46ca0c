"""Reading safetensors as named NumPy arrays."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from deqjax._extras import needs
from deqjax.convert._errors import ConversionError, first_line

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file: floating-point arrays in float32, others as they are.

    Raises:
        ConversionError: the package safetensors is not installed, or the file is damaged.
    """
    with needs("torch", f"reading {file}", ConversionError):
        import safetensors
    try:
        found: Any = safetensors.deserialize(file.read_bytes())
    except (safetensors.SafetensorError, OSError) as error:
        raise ConversionError(
            f"{file} is damaged or no safetensors ({first_line(error)}); copy or download it again."
        ) from error
    return {name: _array(file, name, tensor) for name, tensor in found}


def _array(file: Path, name: str, tensor: dict[str, Any]) -> np.ndarray:
    dtype = _DTYPES.get(str(tensor["dtype"]))
    if dtype is None:
        raise ConversionError(
            f"{name} in {file} is {tensor['dtype']}; save it as one of {', '.join(_DTYPES)}."
        )
    flat = np.frombuffer(tensor["data"], dtype)
    array: np.ndarray = flat.reshape(tensor["shape"])
    # by its name: NumPy does not count the types of ml_dtypes among the floating ones
    floating = str(tensor["dtype"]).startswith(("F", "BF"))
    return array.astype(np.float32) if floating else array
