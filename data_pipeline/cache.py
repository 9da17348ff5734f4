"""The step cache: an RLDS data set as one flat file of encoded frames, each read at a known offset, and columns."""

import dataclasses
import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.card import CARD_FILE
from data_pipeline.mapping import CATEGORIES, DatasetError, Mapping, resolve_cameras
from data_pipeline.rlds import EpisodeReader, RldsDataset, is_image, is_text, open_rlds, read_examples
from dexhil.names import check_known

_VERSION = 3
_MISSING = 1.5  # periods to the next step from which on one is missing between them
_UNKNOWN = {
    "episode_id": "", "task": "", "success": -1, "source": "offline", "round": 0, "policy": "", "operator": "",
    "seed": -1,
}  # fmt: skip
METADATA = (*_UNKNOWN, "robot")


@dataclasses.dataclass(frozen=True)
class StepCache:
    """Every step of one data set, N rows in the order of the episodes.

    Attributes:
        episodes: metadata of each with "number" (in its split), "start" (first row) and "length".
        control_hz: 1/s, rate of the steps, None where nothing says it.
        left_out: sentences on episodes that are not here.
        frames: int64 [N, cameras, 2], offset and bytes of each encoded frame in `frames.bin`.
        state: float32 [N, S].
        action: float32 [N, A].
        category: int8 [N], index into CATEGORIES.
        instruction: int32 [N], index into `instructions`.
        gap: bool [N], time is missing before this step.
        commanded: bool [N], somebody acted.
    """

    directory: Path
    content_sha256: str
    cameras: list[str]
    image_shapes: dict[str, list[int | None]]
    instructions: list[str]
    episodes: list[dict[str, Any]]
    control_hz: float | None
    left_out: list[str]
    frames: np.ndarray
    state: np.ndarray
    action: np.ndarray
    category: np.ndarray
    instruction: np.ndarray
    gap: np.ndarray
    commanded: np.ndarray


_COLUMNS = ("frames", "state", "action", "category", "instruction", "gap", "commanded")


def open_cache(dataset: Path, mapping: Mapping, cache_dir: Path) -> StepCache:
    """The step cache of a data set, made first where `cache_dir` does not have it; warns of episodes left out.

    Raises:
        DatasetError: the data set is missing, damaged or does not fit the mapping, or the cache is damaged.
    """
    directory = Path(cache_dir) / _cache_key(Path(dataset), mapping)
    if not directory.is_dir():
        _create(open_rlds(dataset), mapping, directory)
    try:
        cache = _load(directory)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DatasetError(f"the step cache {directory} is damaged; delete that directory ({error})") from error
    for sentence in cache.left_out:
        warnings.warn(sentence, stacklevel=2)
    return cache


def _load(directory: Path) -> StepCache:
    facts = json.loads((directory / "cache.json").read_text())
    columns = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
    sizes = {len(column) for column in columns.values()} | {sum(episode["length"] for episode in facts["episodes"])}
    if len(sizes) > 1 or (directory / "frames.bin").stat().st_size != facts.pop("frames_bytes"):
        raise ValueError(f"its files differ in length: {sorted(sizes)}")
    return StepCache(directory=directory, **facts, **columns)


def _cache_key(dataset: Path, mapping: Mapping) -> str:
    if not dataset.is_dir():
        raise DatasetError(
            f"no data set at {dataset}: the directory does not exist; check the path (one with a comma needs quotes of "
            f"its own), or build it first"
        )
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
    cameras = check_mapping(dataset, mapping)
    digest, episodes, parts, vocabulary, left_out, rows = hashlib.sha256(), [], [], {}, [], 0
    for split in mapping.splits:
        known: dict[bytes, int] = {}
        number = -1
        for number, reader in enumerate(_read_split(dataset, split, digest)):
            name = f"{dataset.directory} split {split!r} episode {number}"
            part = _read_columns(reader, mapping, name)
            length = len(part["action"])
            if not length:
                left_out.append(f"{name} has no steps: it is left out")
            elif (first := known.setdefault(reader.fingerprint(), number)) != number:
                left_out.append(f"{name} is a copy of episode {first}: it is left out")
            else:
                metadata = _read_metadata(reader, mapping, part)
                part["instruction"] = _intern(reader, mapping.instruction, length, vocabulary, name)
                part["category"] = _categories(reader, mapping, metadata["source"], length, name)
                part["commanded"] = _optional(reader, mapping.commanded, True, length)
                part["timestamp"] = _timestamps(reader, mapping, length, name)
                part["frames"] = _append_frames(reader, cameras, frames, name, length)
                episodes.append({**metadata, "number": number, "start": rows, "length": length})
                parts.append(part)
                rows += length
        if (promised := dataset.builder.info.splits[split].num_examples) != number + 1:
            raise DatasetError(
                f"{dataset.directory} split {split!r} holds {number + 1} episodes, its dataset_info.json says "
                f"{promised}: it is truncated; copy it again or build it anew"
            )
    if not parts:
        raise DatasetError(f"{dataset.directory} holds no step: {'; '.join(left_out) or 'the mapping names no split'}")
    control_hz = _mark_gaps(parts, _declared_hz(dataset, mapping), dataset)
    facts = {
        "content_sha256": digest.hexdigest(),
        "cameras": list(cameras),
        "image_shapes": {camera: list(dataset.step_fields[field].shape) for camera, field in cameras.items()},
        "instructions": list(vocabulary),
        "episodes": episodes,
        "control_hz": control_hz,
        "left_out": left_out,
    }
    return facts, {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}


def _read_split(dataset: RldsDataset, split: str, digest: Any) -> Iterator[EpisodeReader]:
    for path in dataset.files(split):
        for serialized in read_examples(path):
            digest.update(serialized)
            yield EpisodeReader(serialized, dataset)


def _declared_hz(dataset: RldsDataset, mapping: Mapping) -> float | None:
    card = dataset.directory / CARD_FILE
    try:
        said = json.loads(card.read_text()).get("control_hz") if card.is_file() else None
        return mapping.control_hz if said is None else float(said)
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{card} is damaged ({error}); copy the data set again or build it anew") from error


def _mark_gaps(parts: list[dict[str, np.ndarray]], declared: float | None, dataset: RldsDataset) -> float | None:
    """Gives each part its column "gap" and returns the rate: `declared`, else as the timestamps lie apart."""
    apart = np.concatenate([np.diff(part["timestamp"]) for part in parts])
    apart = apart[np.isfinite(apart)]
    control_hz = declared or (1 / float(np.median(apart)) if len(apart) else None)
    for part in parts:
        intervals = np.diff(part["timestamp"], prepend=np.nan)
        part["gap"] = intervals * (control_hz or 0.0) > _MISSING
    if len(apart) and control_hz:
        quick, slow = np.quantile(apart, 0.25, method="lower"), np.quantile(apart, 0.75, method="higher")
        if quick * control_hz > _MISSING or slow * control_hz < 1 / _MISSING:
            raise DatasetError(
                f"the timestamps of {dataset.directory} are {np.median(apart):.3g} s apart ({1 / np.median(apart):.3g} "
                f"Hz), its card or mapping says {control_hz:g} Hz; correct the rate where the steps were recorded"
            )
    return control_hz


def check_mapping(dataset: RldsDataset, mapping: Mapping) -> dict[str, str]:
    """Checks every field that a mapping names; returns camera -> field. Raises ValueError naming the first misfit."""
    cameras = resolve_cameras(mapping, dataset.step_fields)
    labels = [mapping.labels.field] if mapping.labels else []
    ends = [mapping.end_flag] if mapping.end_flag else []
    where = f"{dataset.directory} (mapping {mapping.name!r}):"
    for field in (*cameras.values(), *mapping.state, *mapping.action, *labels, *ends):
        check_known(f"{where} step field", field, dataset.step_fields)
    check_known(f"{where} field", mapping.instruction, {*dataset.step_fields, *dataset.episode_fields})
    for name, field in mapping.metadata.items():
        check_known(f"{where} metadata", name, METADATA)
        check_known(f"{where} episode field", field, dataset.episode_fields)
    _check_kinds(dataset, mapping, cameras)
    return cameras


def _check_kinds(dataset: RldsDataset, mapping: Mapping, cameras: dict[str, str]) -> None:
    fields, where = dataset.step_fields, f"of {dataset.directory}"
    instruction = {**dataset.episode_fields, **fields}[mapping.instruction]
    codes = not is_image(instruction) and len(instruction.shape) == 1 and instruction.np_dtype.kind in "iu"
    if not is_text(instruction) and not codes:
        raise DatasetError(
            f"instruction field {mapping.instruction!r} {where} is {instruction.np_dtype} of shape "
            f"{list(instruction.shape)}, expected a string or a row of code points, of the steps or of the episode"
        )
    for camera, field in cameras.items():
        if not is_image(fields[field]):
            kind = type(fields[field]).__name__
            raise DatasetError(f"camera {camera!r}: field {field!r} {where} is a {kind}, expected an encoded Image")
        if fields[field].np_dtype != np.uint8 or fields[field].shape[-1] not in (3, 4):
            raise DatasetError(
                f"camera {camera!r}: field {field!r} {where} is {fields[field].np_dtype} {list(fields[field].shape)}, "
                f"expected an 8-bit colour picture; name the colour cameras alone in the mapping's `cameras` (depth is "
                f"not used), or write it as uint8 [H, W, 3]"
            )
    for field in (*mapping.state, *mapping.action):
        if is_text(fields[field]) or is_image(fields[field]) or None in fields[field].shape:
            raise DatasetError(f"field {field!r} {where} is {fields[field]!r}, expected numbers of fixed width")


def _read_columns(reader: EpisodeReader, mapping: Mapping, name: str) -> dict[str, np.ndarray]:
    """{"state": [T, S], "action": [T, A]} float32. Raises DatasetError on non-finite values or wrong end flags."""
    last = None if mapping.last_action_valid else -1
    columns = {"state": _concat(reader, mapping.state, name), "action": _concat(reader, mapping.action, name, last)}
    if len(columns["state"]) != len(columns["action"]):
        raise DatasetError(f"{name}: {len(columns['state'])} states and {len(columns['action'])} actions")
    if mapping.end_flag and len(columns["action"]):
        flags = np.flatnonzero(reader.step_array(mapping.end_flag))
        if flags.tolist() != [len(columns["action"]) - 1]:
            raise DatasetError(
                f"{name}: {mapping.end_flag!r} is set at steps {flags.tolist()}, expected only at the last, "
                f"{len(columns['action']) - 1}; a mapping for sets that do not use it says end_flag=None"
            )
    return columns


def _concat(reader: EpisodeReader, fields: tuple[str, ...], name: str, end: int | None = None) -> np.ndarray:
    columns = []
    for field in fields:
        values = reader.step_array(field).astype(np.float32)
        if not np.isfinite(values[:end]).all():
            step, dim = np.argwhere(~np.isfinite(values[:end]))[0]
            raise DatasetError(
                f"{name} step {step}: {field!r} has {values[step, dim]} at index {dim}, expected finite numbers; "
                f"repair the source or leave the episode out"
            )
        columns.append(values)
    return np.concatenate(columns, axis=1)


def _read_metadata(reader: EpisodeReader, mapping: Mapping, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    metadata = _UNKNOWN | {"robot": mapping.robot}
    metadata |= {name: reader.episode_value(field) for name, field in mapping.metadata.items()}
    if not metadata["episode_id"]:
        content = columns["action"].tobytes() + columns["state"].tobytes()
        metadata["episode_id"] = hashlib.sha256(content).hexdigest()[:16]
    return metadata


def _intern(reader: EpisodeReader, field: str, length: int, vocabulary: dict[str, int], name: str) -> np.ndarray:
    try:
        texts = reader.texts(field, length)
        return np.array([vocabulary.setdefault(text, len(vocabulary)) for text in texts], np.int32)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{name}: the instruction is not text ({error}); expected UTF-8 or code points") from error


def _optional(reader: EpisodeReader, field: str | None, missing: Any, length: int) -> np.ndarray:
    if field is None or field not in reader.dataset.step_fields:
        return np.full(length, missing)
    return reader.step_array(field)[:, 0].astype(type(missing))


def _timestamps(reader: EpisodeReader, mapping: Mapping, length: int, name: str) -> np.ndarray:
    """float64 [T], s; NaN where a data set does not say. Raises DatasetError where time does not move on."""
    times = _optional(reader, mapping.timestamp, np.nan, length)
    if (late := np.diff(times) <= 0).any():
        step = int(np.argmax(late)) + 1
        raise DatasetError(
            f"{name} step {step}: {mapping.timestamp!r} is {times[step]} s after {times[step - 1]} s, expected seconds "
            f"that grow; repair the source, or use a mapping with timestamp=None"
        )
    return times


def _categories(reader: EpisodeReader, mapping: Mapping, source: str, length: int, name: str) -> np.ndarray:
    """int8 [T]: who acted. Episodes whose source is known to be offline, or that carry no labels, are offline."""
    if mapping.labels is None or ("source" in mapping.metadata and source == "offline"):
        return np.full(length, CATEGORIES.index("offline"), np.int8)
    values = reader.step_array(mapping.labels.field)[:, 0].astype(np.float64)
    known = {float(value): CATEGORIES.index(category) for value, category in mapping.labels.categories.items()}
    if unknown := np.flatnonzero(~np.isin(values, list(known))).tolist():
        raise DatasetError(
            f"{name} step {unknown[0]}: {mapping.labels.field!r} is {values[unknown[0]]}, expected one of "
            f"{sorted(known)}"
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
