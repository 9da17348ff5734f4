"""Messages survive the way, and bytes of a stranger cost nothing."""

import contextlib

import msgpack
import numpy as np
import pytest

from dexhil.serving.codec import MAX_CONTAINERS, MAX_ITEMS, MAX_TEXT, CodecError, pack, unpack

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.arange(12, dtype=np.float32).reshape(3, 4).T,
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2],
    np.array([True, False]),
    np.array(2.5),
    np.zeros((0, 3), np.int64),
    np.array([1, -2], ">i2"),
    np.array([np.nan, np.inf], np.float16),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_arrays_survive_bit_for_bit(array):
    back = unpack(pack({"x": array}))["x"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_everything_else_survives_and_tuples_become_lists():
    message = {"a": [1, 2.5, None, True, "é"], "b": {"c": b"\x00"}, "d": (1, 2)}
    assert unpack(pack(message)) == {**message, "d": [1, 2]}
    scalar = unpack(pack(np.uint8(7)))
    assert type(scalar) is np.uint8
    assert scalar == 7


def test_an_array_is_the_map_that_openpi_writes():
    spelled = msgpack.unpackb(pack(np.ones((1, 2), np.float32)))
    assert spelled == {b"__ndarray__": True, b"data": b"\0\0\x80?" * 2, b"dtype": "<f4", b"shape": [1, 2]}
    assert list(spelled) == [b"__ndarray__", b"data", b"dtype", b"shape"]


def raw_array(**changes: object) -> bytes:
    fields = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2]}
    return msgpack.packb(fields | {name.encode(): value for name, value in changes.items()}) or b""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "message of 0 bytes: not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x93\x01", "not msgpack"),
        (pack({"a": 1}) + b"\0", "extra data"),
        (b"\x91" * 5000, "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "4294967295 exceeds max_array_len"),
        (msgpack.packb([0] * (MAX_ITEMS + 1)), "257 exceeds max_array_len"),
        (msgpack.packb([[[]] * 200] * 200), f"more than {MAX_CONTAINERS} lists and maps"),
        (msgpack.packb("x" * (MAX_TEXT + 1)), "exceeds max_str_len"),
        (msgpack.packb(msgpack.ExtType(1, b"x")), "max_ext_len"),
        (b"\xa2\xff\xff", "utf-8"),
        (b"\x81\x01\x02", "map key"),
        (raw_array(dtype="|O"), r"dtype '\|O': expected bool, int, uint or float"),
        (raw_array(dtype="<U2"), "dtype '<U2'"),
        (raw_array(dtype="i4,i4"), "dtype 'i4,i4'"),
        (raw_array(dtype=None), "dtype 'None'"),
        (raw_array(shape=[3]), r"array: float32 \[3\] takes 12 bytes, got 8"),
        (raw_array(shape=[2**40]), "expected a shape"),
        (raw_array(shape=[2**30] * 3), "bytes, got 8"),
        (raw_array(shape=[2**30, 0]), "takes 0 bytes, got 8"),
        (raw_array(shape=[-2]), r"expected a shape of at most 8 sizes below 2\^31, got \[-2\]"),
        (raw_array(shape=[2.0]), "expected a shape"),
        (raw_array(shape=2), "expected a shape"),
        (raw_array(shape=[1] * 9 + [2]), "expected a shape of at most 8 sizes below"),
        (raw_array(data="text"), "expected data as bytes, got str"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}), "out of bounds"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "1", b"dtype": "|i1"}), "expected a number as data, got str"),
    ],
)
def test_bad_bytes_are_refused(data, message):
    with pytest.raises(CodecError, match=message):
        unpack(data)


@pytest.mark.parametrize("shape", [[2**63, 0], [2**30, 0, *[2**30] * 6]])
def test_an_empty_array_of_an_absurd_shape_is_refused(shape):
    with pytest.raises(CodecError, match=r"array: expected a shape|array is too big"):
        unpack(raw_array(shape=shape, data=b""))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([object()]), r"dtype '\|O'"),
        (np.array([1j]), "dtype '<c16'"),
        (np.array(["text"]), "dtype '<U4'"),
        ({1, 2}, "cannot pack set {1, 2}"),
        (2**70, "cannot pack int 1180591620717411303424; expected .*numbers of 64 bits"),
    ],
)
def test_what_cannot_be_packed_is_named(value, message):
    with pytest.raises(CodecError, match=message):
        pack({"x": value})


def test_random_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    good = bytearray(pack({"images": {"scene": np.zeros((4, 4, 3), np.uint8)}, "state": np.zeros(3), "n": np.int8(1)}))
    for _ in range(3000):
        changed = good.copy()
        for place in rng.integers(0, len(good), 3):
            changed[place] = rng.integers(256)
        with contextlib.suppress(CodecError):
            unpack(bytes(changed))
