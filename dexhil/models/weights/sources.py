"""Arrays of a file by name, streamed into memory that is there already, never mapped: safetensors, npz and orbax."""

import dataclasses
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dexhil.models.trees import flatten, unflatten

Shapes = dict[str, tuple[int, ...]]

_PIECE = 1 << 22  # bytes read at a time
_SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_KINDS = "a .safetensors file, its .index.json, an .npz file, or a folder of safetensors or of an orbax checkpoint"


class WeightsError(ValueError):
    """Weights that are missing, damaged or made for another model; the message lists all that is wrong."""


class Source(Protocol):
    """shapes: of every array by its name in the file. family: whose names these are, "huggingface" or "openpi"."""

    family: str
    shapes: Shapes

    def fill(self, name: str, out: np.ndarray) -> None:
        """Overwrites `out`, contiguous, with the array's first `out.size` values (C order), cast to its dtype."""
        ...


def open_source(path: str | Path) -> Source:
    """The reader for what lies at `path`. Raises WeightsError where nothing readable does."""
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"weights {str(path)!r}: no such file or folder; expected {_KINDS}")
    if path.is_dir():
        for folder in (path, path / "params"):
            if any((folder / name).exists() for name in ("_METADATA", "manifest.ocdbt")):
                return OrbaxFolder(folder)
        return SafetensorsFiles(path)
    if path.suffix == ".npz":
        return NpzFile(path)
    if path.suffix in (".safetensors", ".json"):
        return SafetensorsFiles(path)
    raise WeightsError(f"weights {str(path)!r}: unknown kind of file; expected {_KINDS}")


def _stream_into(stream: IO[bytes], dtype: np.dtype, out: np.ndarray) -> None:
    flat = out.reshape(-1)
    step = _PIECE // dtype.itemsize
    for begin in range(0, flat.size, step):
        part = flat[begin : begin + step]
        data = stream.read(part.size * dtype.itemsize)
        if len(data) != part.size * dtype.itemsize:
            raise EOFError
        part[...] = np.frombuffer(data, dtype)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file


class SafetensorsFiles:
    """One .safetensors file, or the shards that an index names. The package of that name would map whole files."""

    family = "huggingface"

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, _Tensor] = {}
        for file in _shards(path):
            for name, tensor in _read_header(file).items():
                if name in self._tensors:
                    raise WeightsError(f"{file}: {name!r} is in {self._tensors[name].file.name} too; remove one")
                self._tensors[name] = tensor
        self.shapes: Shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def fill(self, name: str, out: np.ndarray) -> None:
        tensor = self._tensors[name]
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.offset)
            _stream_into(stream, tensor.dtype, out)


def _shards(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            names = [file.name for file in found]
            raise WeightsError(f"weights {str(path)!r}: expected one model, found {names}; name the file itself")
        path = found[0]
    if path.suffix == ".safetensors":
        return [path]
    try:
        files = {path.parent / name for name in json.loads(path.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: no index of safetensors ({error!r}); expected a JSON with 'weight_map'") from error
    missing = sorted(file.name for file in files if not file.is_file())
    if missing:
        raise WeightsError(f"{path}: the index names files that are not there: {missing}; download them beside it")
    return sorted(files)


def _read_header(file: Path) -> dict[str, _Tensor]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, size)))
        header.pop("__metadata__", None)
        tensors = {name: _tensor(file, 8 + length, entry) for name, entry in header.items()}
        end = max((8 + length + entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file}: damaged, its header cannot be read ({error!r}); download it again") from error
    if end > size:
        raise WeightsError(f"{file}: damaged, it has {size} bytes and its header needs {end}; download it again")
    return tensors


def _tensor(file: Path, base: int, entry: Mapping) -> _Tensor:
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise ValueError(f"dtype {entry['dtype']}, expected one of {list(_SAFETENSORS_DTYPES)}")
    dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if end - begin != dtype.itemsize * int(np.prod(shape)):
        raise ValueError(f"{end - begin} bytes for {entry['dtype']} {list(shape)}")
    return _Tensor(file, dtype, shape, base + begin)


class NpzFile:
    """big_vision's npz. Its bfloat16 arrays are stored as two unnamed bytes each."""

    family = "openpi"

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
            self.shapes: Shapes = {}
            for member in self._zip.namelist():
                with self._zip.open(member) as stream:
                    self.shapes[member.removesuffix(".npy")], _ = _npy_header(stream)
        except (zipfile.BadZipFile, ValueError) as error:
            raise WeightsError(f"{path}: damaged, or no npz ({error}); download it again") from error

    def fill(self, name: str, out: np.ndarray) -> None:
        with self._zip.open(f"{name}.npy") as stream:
            _, dtype = _npy_header(stream)
            _stream_into(stream, dtype, out)


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if fortran_order and len(shape) > 1:
        raise ValueError("an array in Fortran order; expected C order")
    return shape, np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else dtype


class OrbaxFolder:
    """openpi's `params` folder. Trees that its training wrote have a trailing "value" on every path."""

    family = "openpi"

    def __init__(self, folder: Path) -> None:
        self._folder = epath.Path(folder.resolve())
        self._handler = ocp.PyTreeCheckpointHandler()
        self._leaves = flatten(self._handler.metadata(self._folder).tree)
        self.shapes: Shapes = {path: tuple(leaf.shape) for path, leaf in self._leaves.items()}

    def fill(self, name: str, out: np.ndarray) -> None:
        read = ocp.RestoreArgs(restore_type=np.ndarray, dtype=out.dtype)
        restore = ocp.args.PyTreeRestore(
            item=unflatten({name: self._leaves[name]}), restore_args=unflatten({name: read}), partial_restore=True
        )
        (leaf,) = flatten(self._handler.restore(self._folder, args=restore)).values()
        out.reshape(-1)[...] = leaf.reshape(-1)[: out.size]
