"""Messages as bytes: msgpack in which NumPy arrays are maps, bit for bit what openpi-client writes. No JAX.

An array is {b"__ndarray__": True, b"data", b"dtype", b"shape"}, a NumPy scalar {b"__npgeneric__": True, b"data",
b"dtype"}. What comes from a stranger is bounded before memory is spent on it: number kinds only, the data as long as
dtype and shape say, few and small containers, short texts.
"""

import itertools
import math
from typing import Any

import msgpack
import numpy as np

MAX_TEXT = 4096  # characters of a key or a prompt, in UTF-8 bytes
MAX_ITEMS = 256  # of one list or map
MAX_CONTAINERS = 1024  # lists and maps of one message
MAX_NDIM, MAX_SIZE = 8, 2**31  # of an array
PACKABLE = "dicts, lists, texts, numbers of 64 bits and NumPy arrays"

_ONE_BYTE = {"|b1", "|i1", "|u1"}
DTYPES = _ONE_BYTE | {order + code for order in "<>" for code in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8")}


class CodecError(ValueError):
    """Bytes that are no message, or a value that cannot be one; the message says which and what was expected."""


def pack(message: Any) -> bytes:
    """Nested dicts, lists, texts, numbers and NumPy values -> bytes. Raises CodecError on an array of no numbers."""
    try:
        return bytes(msgpack.packb(message, default=_encode) or b"")
    except (TypeError, OverflowError) as error:
        raise CodecError(f"message: {error}; expected {PACKABLE}") from error


def unpack(data: bytes) -> Any:
    """Inverse of `pack`; tuples come back as lists. Arrays are read-only views. Raises CodecError."""
    containers = itertools.count(1)

    def counted(value: Any) -> Any:
        if next(containers) > MAX_CONTAINERS:
            raise CodecError(f"message: more than {MAX_CONTAINERS} lists and maps; send numbers as NumPy arrays")
        return value

    try:
        return msgpack.unpackb(
            data,
            object_hook=lambda value: _decode(counted(value)),
            list_hook=counted,
            max_str_len=MAX_TEXT,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except CodecError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise CodecError(f"message of {len(data)} bytes: not msgpack, or too large a part ({reason})") from error


def _encode(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise CodecError(f"message: cannot pack {type(value).__name__} {str(value)[:40]}; expected {PACKABLE}")
    dtype = _checked_dtype(value.dtype.str)
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype.str}


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _decode_array(value)
    if b"__npgeneric__" not in value:
        return value
    number, dtype = value.get(b"data"), _checked_dtype(value.get(b"dtype"))
    if not isinstance(number, (bool, int, float)):
        raise CodecError(f"NumPy scalar: expected a number as data, got {type(number).__name__}")
    return dtype.type(number)


def _decode_array(value: dict[Any, Any]) -> np.ndarray:
    data, shape = value.get(b"data"), value.get(b"shape")
    dtype = _checked_dtype(value.get(b"dtype"))
    if not isinstance(data, bytes):
        raise CodecError(f"array: expected data as bytes, got {type(data).__name__}")
    sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size < MAX_SIZE for size in shape)
    if not isinstance(shape, list) or not sizes or len(shape) > MAX_NDIM:
        raise CodecError(f"array: expected a shape of at most {MAX_NDIM} sizes below 2^31, got {str(shape)[:80]}")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(data):
        raise CodecError(f"array: {dtype} {shape} takes {expected} bytes, got {len(data)}")
    return np.ndarray(shape, dtype, buffer=data)


def _checked_dtype(text: Any) -> np.dtype[Any]:
    if not isinstance(text, str) or text not in DTYPES:
        raise CodecError(f"dtype {str(text)[:40]!r}: expected bool, int, uint or float of at most 64 bits, as '<f4'")
    return np.dtype(text)
