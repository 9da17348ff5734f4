"""The step cache: an RLDS data set as one flat file of encoded frames and NumPy columns, one row per step.

A frame is read with one `pread` at a known offset, so that memory does not grow with the data set. The cache is made
once per data set and mapping, in one pass over its files, and is whole or absent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.mapping import CATEGORIES, DatasetError, Mapping, check_known, resolve_cameras
from data_pipeline.rlds import EpisodeReader, RldsDataset, is_image, is_text, open_rlds, read_examples

_VERSION = 2
_UNKNOWN = {
    "episode_id": "", "task": "", "success": -1, "source": "offline", "round": 0, "policy": "", "operator": "",
    "seed": -1,
}  # fmt: skip
METADATA = (*_UNKNOWN, "robot")


@dataclasses.dataclass(frozen=True)
class StepCache:
    """Every step of one data set, N rows in the order of the episodes.

    frames: int64 [N, cameras, 2], offset and bytes of each encoded frame in `frames.bin`.
    state: float32 [N, S]; action: float32 [N, A]; category: int8 [N], index into CATEGORIES; instruction: int32 [N],
    index into `instructions`. episodes: metadata of each with "start" (first row) and "length".
    """

    directory: Path
    content_sha256: str
    cameras: tuple[str, ...]
    image_shapes: dict[str, tuple[int | None, ...]]
    instructions: tuple[str, ...]
    episodes: list[dict[str, Any]]
    frames: np.ndarray
    state: np.ndarray
    action: np.ndarray
    category: np.ndarray
    instruction: np.ndarray


_COLUMNS = ("frames", "state", "action", "category", "instruction")


def open_cache(dataset: Path, mapping: Mapping, cache_dir: Path) -> StepCache:
    """The step cache of a data set, made first where `cache_dir` does not have it.

    Raises DatasetError where the data set is missing, damaged, or does not fit the mapping.
    """
    directory = Path(cache_dir) / _cache_key(Path(dataset), mapping)
    if not directory.is_dir():
        _create(open_rlds(dataset), mapping, directory)
    facts = json.loads((directory / "cache.json").read_text())
    if (directory / "frames.bin").stat().st_size != facts["frames_bytes"]:
        raise DatasetError(f"the step cache {directory} is damaged; delete that directory, it is made again")
    columns = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
    return StepCache(
        directory=directory,
        content_sha256=facts["content_sha256"],
        cameras=tuple(facts["cameras"]),
        image_shapes={camera: tuple(shape) for camera, shape in facts["image_shapes"].items()},
        instructions=tuple(facts["instructions"]),
        episodes=facts["episodes"],
        **columns,
    )


def _cache_key(dataset: Path, mapping: Mapping) -> str:
    """Changes with the mapping and with any file of the data set (name, size, time of change)."""
    if not dataset.is_dir():
        raise DatasetError(f"no data set at {dataset}: the directory does not exist; check the path, or build it first")
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in dataset.iterdir())
    identity = [_VERSION, dataclasses.asdict(mapping), files]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _create(dataset: RldsDataset, mapping: Mapping, directory: Path) -> None:
    temporary = directory.with_name(f".{directory.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        with (temporary / "frames.bin").open("wb", buffering=1 << 20) as frames:
            facts, columns = _convert(dataset, mapping, frames)
            facts["frames_bytes"] = frames.tell()
        for name, column in columns.items():
            np.save(temporary / f"{name}.npy", column)
        (temporary / "cache.json").write_text(json.dumps(facts))
        temporary.rename(directory)
    except OSError:
        if not directory.is_dir():  # else another process made the same cache meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert(dataset: RldsDataset, mapping: Mapping, frames: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One pass over the data set: writes the frames, returns the JSON facts and the columns."""
    cameras = check_mapping(dataset, mapping)
    digest, episodes, parts, vocabulary = hashlib.sha256(), [], [], {}
    for split in mapping.splits:
        before = len(episodes)
        for path in dataset.files(split):
            for serialized in read_examples(path):
                digest.update(serialized)
                reader = EpisodeReader(serialized, dataset)
                name = f"{dataset.directory} split {split!r} episode {len(episodes) - before}"
                part = _read_columns(reader, mapping, name)
                episodes.append(_read_metadata(reader, mapping, part) | {"length": len(part["action"])})
                part["instruction"] = _intern(reader.step_bytes(mapping.instruction), vocabulary, name)
                part["category"] = _categories(reader, mapping, episodes[-1], name)
                part["frames"] = _append_frames(reader, cameras, frames, name, len(part["action"]))
                parts.append(part)
        _check_count(dataset, split, len(episodes) - before)
    for episode, start in zip(episodes, np.cumsum([0] + [e["length"] for e in episodes]), strict=False):
        episode["start"] = int(start)
    facts = {
        "content_sha256": digest.hexdigest(),
        "cameras": list(cameras),
        "image_shapes": {camera: list(dataset.step_fields[field].shape) for camera, field in cameras.items()},
        "instructions": list(vocabulary),
        "episodes": episodes,
    }
    return facts, {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}


def check_mapping(dataset: RldsDataset, mapping: Mapping) -> dict[str, str]:
    """Checks every field that a mapping names; returns camera -> field. Raises DatasetError naming the first misfit."""
    where = f"the steps of {dataset.directory} (mapping {mapping.name!r})"
    cameras = resolve_cameras(mapping, dataset.step_fields)
    labels = [mapping.labels.field] if mapping.labels else []
    ends = [mapping.end_flag] if mapping.end_flag else []
    for field in (*cameras.values(), *mapping.state, *mapping.action, mapping.instruction, *labels, *ends):
        check_known(field, dataset.step_fields, "field", where)
    for field in mapping.metadata.values():
        check_known(field, dataset.episode_fields, "field", f"the episodes of {dataset.directory}")
    for name in mapping.metadata:
        check_known(name, METADATA, "metadata", "the data schema")
    _check_kinds(dataset, mapping, cameras)
    return cameras


def _check_kinds(dataset: RldsDataset, mapping: Mapping, cameras: dict[str, str]) -> None:
    fields, where = dataset.step_fields, f"of {dataset.directory}"
    if not is_text(fields[mapping.instruction]):
        kind = fields[mapping.instruction].np_dtype
        raise DatasetError(f"instruction field {mapping.instruction!r} {where} is {kind}, expected a string")
    for camera, field in cameras.items():
        if not is_image(fields[field]):
            kind = type(fields[field]).__name__
            raise DatasetError(f"camera {camera!r}: field {field!r} {where} is a {kind}, expected an encoded Image")
    for field in (*mapping.state, *mapping.action):
        if is_text(fields[field]) or is_image(fields[field]) or None in fields[field].shape:
            raise DatasetError(f"field {field!r} {where} is {fields[field]!r}, expected numbers of fixed width")


def _check_count(dataset: RldsDataset, split: str, count: int) -> None:
    promised = dataset.num_episodes(split)
    if count != promised:
        raise DatasetError(
            f"{dataset.directory} split {split!r} holds {count} episodes, its dataset_info.json says {promised}: "
            f"it is truncated; copy it again or build it anew"
        )
    if count == 0:
        raise DatasetError(f"{dataset.directory} split {split!r} holds no episodes")


def _read_columns(reader: EpisodeReader, mapping: Mapping, name: str) -> dict[str, np.ndarray]:
    """{"state": [T, S], "action": [T, A]} float32. Raises DatasetError on non-finite values or wrong end flags."""
    columns = {"state": _concat(reader, mapping.state, name), "action": _concat(reader, mapping.action, name)}
    if len(columns["state"]) != len(columns["action"]):
        raise DatasetError(f"{name}: {len(columns['state'])} states and {len(columns['action'])} actions")
    if mapping.end_flag:
        flags = np.flatnonzero(reader.step_array(mapping.end_flag))
        if flags.tolist() != [len(columns["action"]) - 1]:
            raise DatasetError(
                f"{name}: {mapping.end_flag!r} is set at steps {flags.tolist()}, expected only at the last, "
                f"{len(columns['action']) - 1}; a mapping for sets that do not use it says end_flag=None"
            )
    return columns


def _concat(reader: EpisodeReader, fields: tuple[str, ...], name: str) -> np.ndarray:
    columns = []
    for field in fields:
        values = reader.step_array(field).astype(np.float32)
        if not np.isfinite(values).all():
            step, dim = np.argwhere(~np.isfinite(values))[0]
            raise DatasetError(
                f"{name} step {step}: {field!r} has {values[step, dim]} at index {dim}, expected finite numbers; "
                f"repair the source or leave the episode out"
            )
        columns.append(values)
    return np.concatenate(columns, axis=1)


def _read_metadata(reader: EpisodeReader, mapping: Mapping, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Our metadata of one episode. Without an id of its own an episode is named after the hash of its content."""
    metadata = _UNKNOWN | {"robot": mapping.robot}
    metadata |= {name: reader.episode_value(field) for name, field in mapping.metadata.items()}
    if not metadata["episode_id"]:
        content = columns["action"].tobytes() + columns["state"].tobytes()
        metadata["episode_id"] = hashlib.sha256(content).hexdigest()[:16]
    return metadata


def _intern(texts: list[bytes], vocabulary: dict[str, int], name: str) -> np.ndarray:
    """int32 [T]: index of each step's instruction in the vocabulary, which grows."""
    try:
        return np.array([vocabulary.setdefault(text.decode(), len(vocabulary)) for text in texts], np.int32)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name}: the instruction is not text ({error}); expected UTF-8") from error


def _categories(reader: EpisodeReader, mapping: Mapping, episode: dict[str, Any], name: str) -> np.ndarray:
    """int8 [T]: who acted. Episodes whose source is known to be offline, or that carry no labels, are offline."""
    offline = "source" in mapping.metadata and episode["source"] == "offline"
    if mapping.labels is None or offline:
        return np.full(episode["length"], CATEGORIES.index("offline"), np.int8)
    values = reader.step_array(mapping.labels.field)[:, 0].astype(np.float64)
    known = {float(value): CATEGORIES.index(category) for value, category in mapping.labels.categories.items()}
    for step, value in enumerate(values.tolist()):
        if value not in known:
            raise DatasetError(
                f"{name} step {step}: {mapping.labels.field!r} is {value}, expected one of {sorted(known)}"
            )
    return np.array([known[value] for value in values.tolist()], np.int8)


def _append_frames(reader: EpisodeReader, cameras: dict[str, str], out: BinaryIO, name: str, length: int) -> np.ndarray:
    """Writes the frames of an episode, the cameras of a step side by side; int64 [T, cameras, 2]: offset, bytes."""
    images = [reader.step_bytes(field) for field in cameras.values()]
    for camera, frames in zip(cameras, images, strict=True):
        if len(frames) != length:
            raise DatasetError(f"{name}: camera {camera!r} has {len(frames)} images for {length} steps")
    sizes = np.array([[len(frame) for frame in frames] for frames in images], np.int64).T.reshape(length, len(cameras))
    start = out.tell()
    for step in zip(*images, strict=True):
        out.writelines(step)
    ends = start + np.cumsum(sizes.ravel()).reshape(sizes.shape)
    return np.stack([ends - sizes, sizes], axis=-1)
