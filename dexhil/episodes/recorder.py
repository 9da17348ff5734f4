"""The recorder: episodes as directories that become visible whole, by one atomic rename after fsync.

While open, an episode is `root/.open-<unique>/steps.bin`, one verified record per step, written straight to the file: a
killed process loses at most the step it was writing. `repair` turns what such a process left into an episode.
Several processes may write under one root. Layout of the bytes: `dexhil.episodes.format`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dexhil.episodes.format import (
    MAGIC,
    METADATA_FILE,
    STEPS_FILE,
    EncodedStep,
    EpisodeError,
    Verified,
    decode_step,
    encode_step,
    frame,
    pack_step,
    read_records,
    unpack_step,
    verify,
)
from dexhil.files import sync_directory, write_durably
from dexhil.schema import Episode, EpisodeMetadata, SchemaError, Step

OPEN_PREFIX = ".open-"
REPAIR_COMMAND = "python -m data_pipeline.repair"
_UNKNOWN = EpisodeMetadata(
    episode_id="", task="", success=-1, source="online", round=0, policy="", operator="", robot="", seed=-1,
    takeovers=0, max_takeover_jump=float("nan"),
)  # fmt: skip
MAX_ID = 200  # bytes of an episode's id: file systems take 255, and repair and films add to it
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?<!\.)")
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no folder can be called so on Windows
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RecordingError(OSError):
    """Recording could not go on (full disk, lost directory); the message says what was saved and what to do."""


class EpisodeWriter:
    """Writes one episode under `root`. Use one writer per episode; `finish` or `abandon` ends it.

    control_hz: rate of the steps, 1/s. draft: what is known of the episode before it ends; repair uses it when the
    process dies. jpeg_quality: of the stored images.

    Raises:
        EpisodeError: the draft's id is no plain folder name, or the rate is none.
        SchemaError: the draft does not fit.
    """

    def __init__(
        self, root: Path, *, control_hz: float, draft: EpisodeMetadata | None = None, jpeg_quality: int = 95
    ) -> None:
        if not 0 < control_hz < float("inf"):
            raise EpisodeError(f"control_hz: expected steps per second, more than 0, got {control_hz}")
        if draft is not None:
            draft.validate()
            check_episode_id(draft.episode_id)
        self.root = Path(root)
        self.directory = self.root / f"{OPEN_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.num_steps = 0
        self._quality = jpeg_quality
        self._layout: dict[str, Any] | None = None
        self._last_timestamp = -float("inf")
        self._failed: RecordingError | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self.directory.mkdir(parents=True)
        self._file: int | None = os.open(self.directory / STEPS_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # tells `repair` that this episode is being recorded
        header = {"control_hz": float(control_hz), "draft": dataclasses.asdict(draft) if draft else None}
        self._write(MAGIC + frame(_to_json(header)))

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes without finishing: steps recorded so far stay in the open directory, for `repair`."""
        if self._file is not None:
            self._close()

    def append(self, step: Step) -> None:
        """Validates and stores one step. A bad one raises SchemaError and is not stored, a full disk RecordingError."""
        step.validate()
        self._check_layout(step)
        self._write(frame(pack_step(encode_step(step, self._quality))))
        self._last_timestamp = step.observation.timestamp
        self.num_steps += 1

    def finish(self, metadata: EpisodeMetadata) -> Path:
        """Makes the episode visible as `root/<episode_id>`; returns the path. After an error it is still open."""
        metadata.validate()
        file = self._require_open()
        if self.num_steps == 0:
            raise EpisodeError(f"episode {metadata.episode_id!r} has no steps; append some, or abandon() it")
        target = _visible_path(self.root, metadata.episode_id)
        try:
            os.fsync(file)
            _write_metadata(self.directory, metadata, self.num_steps, self._hash.hexdigest())
            _publish(self.directory, target)
        except OSError as error:
            raise self._explain(error) from error
        self._close()
        return target

    def abandon(self) -> None:
        """Drops the episode and what was recorded of it. Does nothing after `finish`."""
        if self._file is not None:
            self._close()
            shutil.rmtree(self.directory)

    def _require_open(self) -> int:
        if self._file is None:
            raise EpisodeError(f"this writer has ended ({self.directory.name}); open a new EpisodeWriter")
        return self._file

    def _check_layout(self, step: Step) -> None:
        """Every step of an episode has the cameras, image sizes and joint count of its first, and time moves on."""
        seen = step.observation
        images = {camera: image.shape for camera, image in seen.images.items()}
        layout = {"images": images, "q_hand": seen.q_hand.shape}
        if self._layout is None:
            self._layout = layout
        if layout != self._layout:
            raise SchemaError(f"step {self.num_steps} has {layout}, the episode began with {self._layout}")
        if seen.timestamp <= self._last_timestamp:
            raise SchemaError(
                f"timestamp: step {self.num_steps} is at {seen.timestamp} s, expected after {self._last_timestamp} s"
            )

    def _write(self, data: bytes) -> None:
        file = self._require_open()
        if self._failed is not None:
            raise self._failed
        try:
            _write_all(file, data)
        except OSError as error:
            os.ftruncate(file, self._size)
            self._failed = self._explain(error)
            raise self._failed from error
        self._hash.update(data)
        self._size += len(data)

    def _explain(self, error: OSError) -> RecordingError:
        reason = "the disk is full" if error.errno in _FULL else f"writing failed ({error.strerror})"
        return RecordingError(
            error.errno,
            f"{reason} under {self.root}: {self.num_steps} steps of the open episode are saved in {self.directory}, "
            f"every finished episode is untouched; free space, then `{REPAIR_COMMAND} {self.root}` keeps those steps",
        )

    def _close(self) -> None:
        os.close(self._require_open())
        self._file = None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def check_episode_id(episode_id: str) -> None:
    """Raises EpisodeError unless `episode_id` can be the name of a folder on every system."""
    if not _ID.fullmatch(episode_id) or len(episode_id) > MAX_ID or _RESERVED.fullmatch(episode_id):
        raise EpisodeError(
            f"episode_id {episode_id!r}: expected a plain folder name of at most {MAX_ID} letters, digits, '_', '-' "
            f"and '.', that begins with none of the last two, does not end with '.', and is not reserved, such as "
            f"{_plain_id(episode_id) or 'demo-0001'!r}"
        )


def _plain_id(text: str) -> str:
    """`text` as an id that `check_episode_id` takes; "" where nothing of it is left."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:MAX_ID].strip(".-")
    return f"episode-{plain}" if _RESERVED.fullmatch(plain) else plain


def _visible_path(root: Path, episode_id: str) -> Path:
    check_episode_id(episode_id)
    target = root / episode_id
    if target.exists():
        raise _taken(target)
    return target


def _write_metadata(directory: Path, metadata: EpisodeMetadata, num_steps: int, sha256: str) -> None:
    facts = {"num_steps": num_steps, "steps_sha256": sha256, "metadata": dataclasses.asdict(metadata)}
    write_durably(directory / METADATA_FILE, _to_json(facts))
    sync_directory(directory)


def _to_json(value: object) -> bytes:
    return json.dumps(value, indent=1, default=lambda scalar: scalar.item()).encode()  # numpy scalars to Python's


def _publish(directory: Path, target: Path) -> None:
    try:
        os.rename(directory, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _taken(target) from None  # another process finished an episode of that name meanwhile
        raise
    sync_directory(target.parent)


def _taken(target: Path) -> EpisodeError:
    return EpisodeError(
        f"episode {target.name!r} exists already in {target.parent}; finish with another episode_id, nothing is lost"
    )


def list_episodes(root: Path) -> list[Path]:
    """Finished episodes under `root`, sorted by name. Raises EpisodeError where `root` is missing."""
    root = Path(root)
    if not root.is_dir():
        raise EpisodeError(
            f"no directory of episodes at {root}; check the path, or record some first (experiments/collect.py)"
        )
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and os.path.isfile(p / METADATA_FILE))


def read_facts(path: Path) -> tuple[EpisodeMetadata, dict[str, Any]]:
    """Metadata of a finished episode, and the raw facts {"num_steps", "steps_sha256", "metadata"}."""
    try:
        facts = json.loads((Path(path) / METADATA_FILE).read_bytes())
        metadata, _ = EpisodeMetadata(**facts["metadata"]), int(facts["num_steps"])
        metadata.validate()
        return metadata, facts
    except FileNotFoundError:
        raise EpisodeError(f"no finished episode at {path}: {METADATA_FILE} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise EpisodeError(
            f"episode {path}: {METADATA_FILE} is damaged ({error}); move the episode out of the folder"
        ) from error


def read_header(path: Path) -> dict[str, Any]:
    """Header of an episode: {"control_hz": 1/s, "draft": metadata or None}."""
    return json.loads(next(read_records(Path(path) / STEPS_FILE)))


def read_steps(path: Path) -> Iterator[EncodedStep]:
    """Steps of a finished episode, images still encoded, every record verified.

    Raises EpisodeError on a damaged or incomplete file, naming the first bad record.
    """
    _, facts = read_facts(path)
    records = read_records(Path(path) / STEPS_FILE)
    next(records)
    count = 0
    for payload in records:
        yield unpack_step(payload)
        count += 1
    if count != facts["num_steps"]:
        raise EpisodeError(
            f"episode {path}: {count} steps in {STEPS_FILE}, {facts['num_steps']} were recorded; it was truncated"
        )


def read_episode(path: Path) -> Episode:
    """A finished episode with decoded images. Raises EpisodeError on damage."""
    metadata, _ = read_facts(path)
    return Episode(steps=[decode_step(step) for step in read_steps(path)], metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RepairReport:
    """What `repair` did. salvaged: episode -> steps; the others: paths with the reason."""

    salvaged: dict[str, int]
    empty: list[str]
    still_recording: list[str]
    unreadable: dict[str, str]
    damaged: dict[str, str]

    def lines(self) -> list[str]:
        """The report for a person."""
        said = [f"salvaged {name}: {steps} steps, success not known" for name, steps in self.salvaged.items()]
        said += [f"removed {name}: no step had been recorded" for name in self.empty]
        said += [f"left {name}: it is being recorded now" for name in self.still_recording]
        said += [f"left {name}: {why}" for name, why in self.unreadable.items()]
        said += [f"DAMAGED finished episode {name}: {why}" for name, why in self.damaged.items()]
        return said or ["nothing to repair"]


def repair(root: Path) -> RepairReport:
    """Salvages the verified prefix of every open episode under `root` that no process records any more.

    A salvaged episode gets the writer's draft metadata with success = -1, or the full metadata if the process died
    between writing them and the rename. Finished episodes are verified and reported, never changed.
    """
    list_episodes(root)
    report = RepairReport({}, [], [], {}, {})
    for directory in sorted(Path(root).glob(f"{OPEN_PREFIX}*")):
        _repair_one(directory, report)
    for path in list_episodes(root):
        if path.name not in report.salvaged and (damage := _damage(path)):
            report.damaged[path.name] = damage
    return report


def _damage(path: Path) -> str:
    """What is wrong with a finished episode, "" where nothing is."""
    try:
        verified, (_, facts) = verify(path / STEPS_FILE), read_facts(path)
    except (OSError, EpisodeError) as error:
        return str(error)
    missing = verified.num_steps != facts["num_steps"]
    return verified.damage or (f"{verified.num_steps} steps, {facts['num_steps']} were recorded" if missing else "")


def _repair_one(directory: Path, report: RepairReport) -> None:
    file = None
    try:
        if not (directory / STEPS_FILE).is_file():
            raise EpisodeError(f"{STEPS_FILE}: no such file; it is no recorded episode")
        file = os.open(directory / STEPS_FILE, os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _salvage(directory, file, report)
    except BlockingIOError:
        report.still_recording.append(directory.name)
    except Exception as error:  # whatever lies there: the others are still salvaged
        report.unreadable[directory.name] = str(error) or type(error).__name__
    finally:
        if file is not None:
            os.close(file)


def _salvage(directory: Path, file: int, report: RepairReport) -> None:
    verified = verify(directory / STEPS_FILE)
    if verified.header is None:
        report.unreadable[directory.name] = verified.damage or "no header"
    elif verified.num_steps == 0:
        shutil.rmtree(directory)
        report.empty.append(directory.name)
    else:
        os.ftruncate(file, verified.end)
        os.fsync(file)
        content = (directory / STEPS_FILE).read_bytes()
        metadata = _salvaged_metadata(directory, verified)
        _write_metadata(directory, metadata, verified.num_steps, hashlib.sha256(content).hexdigest())
        _publish(directory, directory.parent / metadata.episode_id)
        report.salvaged[metadata.episode_id] = verified.num_steps


def _salvaged_metadata(directory: Path, verified: Verified) -> EpisodeMetadata:
    """The metadata the writer had written if the process died just before the rename, else its draft, success -1."""
    with contextlib.suppress(EpisodeError, OSError):
        metadata, facts = read_facts(directory)
        if facts["num_steps"] == verified.num_steps:
            return dataclasses.replace(metadata, episode_id=_free_id(directory, metadata.episode_id))
    try:
        metadata = EpisodeMetadata(**(verified.header or {})["draft"])
        metadata.validate()
    except (KeyError, TypeError, SchemaError):  # no draft, or one of another time
        metadata = _UNKNOWN
    return dataclasses.replace(
        metadata,
        episode_id=_free_id(directory, metadata.episode_id),
        success=-1,
        takeovers=_count_takeovers(directory / STEPS_FILE),
        max_takeover_jump=float("nan"),
    )


def _count_takeovers(file: Path) -> int:
    """Times that control passed to a person after the first step."""
    records = read_records(file)
    next(records)
    flags = [unpack_step(payload).is_intervention for payload in records]
    return sum(now and not before for before, now in itertools.pairwise(flags))


def _free_id(directory: Path, episode_id: str) -> str:
    """A plain id that no episode beside the open `directory` has; without an id the episode is named after it."""
    plain = _plain_id(episode_id) or _plain_id(f"salvaged-{directory.name.removeprefix(OPEN_PREFIX)}")
    free, count = plain, 1
    while (directory.parent / free).exists():
        free, count = f"{plain}-salvaged{count}", count + 1
    return free
