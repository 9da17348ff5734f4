"""Latest-value slots between processes, without locks: the writer never waits, a checksum tells whole values."""

import ctypes
import pickle
import struct
import zlib
from multiprocessing.context import SpawnContext
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")

_HEAD = struct.Struct("<QQI")  # number of the value, its bytes, their checksum
_ATTEMPTS = 4


class SharedSlot(Generic[Value]):
    """One writer, any number of readers in other processes, which get it as they start; `capacity`: bytes, pickled."""

    def __init__(self, context: SpawnContext, capacity: int) -> None:
        self._memory: Any = context.RawArray(ctypes.c_ubyte, _HEAD.size + capacity)
        self._capacity = capacity
        self._written = 0
        self._seen, self._value = 0, None

    def write(self, value: Value) -> None:
        """Replaces the value, at once. Raises ValueError where it is larger than the slot."""
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        if len(data) > self._capacity:
            raise ValueError(f"slot: a value of {len(data)} bytes, made for at most {self._capacity}")
        self._written += 1
        memory = np.frombuffer(self._memory, np.uint8)
        memory[_HEAD.size : _HEAD.size + len(data)] = np.frombuffer(data, np.uint8)
        head = _HEAD.pack(self._written, len(data), zlib.crc32(data, self._written & 0xFFFFFFFF))
        memory[: _HEAD.size] = np.frombuffer(head, np.uint8)

    def read(self) -> Value | None:
        """The newest whole value, None before the first. The same object again where there is no newer one."""
        memory = np.frombuffer(self._memory, np.uint8)
        for _ in range(_ATTEMPTS):
            number, length, checksum = _HEAD.unpack(memory[: _HEAD.size].tobytes())
            if number == self._seen:
                break
            data = memory[_HEAD.size : _HEAD.size + length].tobytes()
            if zlib.crc32(data, number & 0xFFFFFFFF) == checksum:
                self._seen, self._value = number, pickle.loads(data)
                break
        return self._value
