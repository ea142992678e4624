"""The data types of stored tensors: the codes of safetensors files and their NumPy types, bfloat16 and float8 included."""

from __future__ import annotations

import ml_dtypes
import numpy as np

# Code in a safetensors header -> type in memory; all little-endian.
CODES: dict[str, np.dtype] = {
    code: np.dtype(kind)
    for code, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "U32": np.uint32,
        "I32": np.int32,
        "F32": np.float32,
        "U64": np.uint64,
        "I64": np.int64,
        "F64": np.float64,
        "C64": np.complex64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}
_CODE_OF = {dtype: code for code, dtype in CODES.items()}
_FLOATS = {
    code for code, dtype in CODES.items() if dtype.kind == "f" or code.startswith(("BF", "F8"))
}  # ml_dtypes have the kind 'V'


def code_of(dtype: np.dtype) -> str | None:
    """The code of a NumPy type in a safetensors header, or None when it has none."""
    return _CODE_OF.get(np.dtype(dtype).newbyteorder("=") if dtype.byteorder == ">" else np.dtype(dtype))


def is_float(dtype: np.dtype) -> bool:
    """Whether a stored type is a floating-point one, bfloat16 and float8 included."""
    return _CODE_OF.get(np.dtype(dtype)) in _FLOATS
