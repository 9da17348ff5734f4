"""The recorder: episodes as directories that become visible whole, by one atomic rename after fsync.

While open, an episode is `root/.open-<unique>/steps.bin`, one verified record per step, written straight to the file: a
killed process loses at most the step it was writing; `dexhil.episodes.repair` makes an episode of the rest. Several
processes may write under one root. Layout of the bytes: `dexhil.episodes.format`.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
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
    decode_step,
    encode_step,
    frame,
    pack_step,
    read_records,
    unpack_step,
)
from dexhil.files import sync_directory, write_durably
from dexhil.schema import Episode, EpisodeMetadata, SchemaError, Step

OPEN_PREFIX = ".open-"
REPAIR_COMMAND = "python -m data_pipeline.repair"
MAX_ID = 200  # bytes of an episode's id: file systems take 255, and repair and films add to it
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?<!\.)")
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no folder can be called so on Windows
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RecordingError(OSError):
    """Recording could not go on (full disk, lost directory); the message says what was saved and what to do."""


class EpisodeWriter:
    """Writes one episode under `root`. Use one writer per episode; `finish` or `abandon` ends it.

    Args:
        root: made where it is missing.
        control_hz: 1/s, rate of the steps.
        draft: what is known before the episode ends; repair uses it when the process dies.
        jpeg_quality: of the stored images.

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
        """Validates and stores one step.

        Raises:
            SchemaError: the step does not fit, and is not stored.
            RecordingError: it cannot be written (full disk, lost directory).
        """
        step.validate()
        self._check_layout(step)
        self._write(frame(pack_step(encode_step(step, self._quality))))
        self._last_timestamp = step.observation.timestamp
        self.num_steps += 1

    def finish(self, metadata: EpisodeMetadata) -> Path:
        """Makes the episode visible as `root/<episode_id>` and returns that path. After an error it is still open.

        Raises:
            EpisodeError: it has no step, or its id is taken.
            RecordingError: it cannot be written.
        """
        metadata.validate()
        file = self._require_open()
        if self.num_steps == 0:
            raise EpisodeError(f"episode {metadata.episode_id!r} has no steps; append some, or abandon() it")
        check_episode_id(metadata.episode_id)
        target = self.root / metadata.episode_id
        if target.exists():
            raise _taken(target)
        try:
            os.fsync(file)
            write_metadata(self.directory, metadata, self.num_steps, self._hash.hexdigest())
            publish(self.directory, target)
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
            f"{plain_id(episode_id) or 'demo-0001'!r}"
        )


def plain_id(text: str) -> str:
    """`text` as an id that `check_episode_id` takes; "" where nothing of it is left."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:MAX_ID].strip(".-")
    return f"episode-{plain}" if _RESERVED.fullmatch(plain) else plain


def write_metadata(directory: Path, metadata: EpisodeMetadata, num_steps: int, sha256: str) -> None:
    """Writes what makes an open episode complete: metadata, number of steps and the hash of their file."""
    facts = {"num_steps": num_steps, "steps_sha256": sha256, "metadata": dataclasses.asdict(metadata)}
    write_durably(directory / METADATA_FILE, _to_json(facts))
    sync_directory(directory)


def _to_json(value: object) -> bytes:
    return json.dumps(value, indent=1, default=lambda scalar: scalar.item()).encode()  # numpy scalars to Python's


def publish(directory: Path, target: Path) -> None:
    """Makes the complete episode in `directory` visible as `target`.

    Raises:
        EpisodeError: that name is taken.
    """
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
    """Finished episodes under `root`, sorted by name.

    Raises:
        EpisodeError: `root` is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise EpisodeError(
            f"no directory of episodes at {root}; check the path, or record some first (experiments/collect.py)"
        )
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and os.path.isfile(p / METADATA_FILE))


def read_facts(path: Path) -> tuple[EpisodeMetadata, dict[str, Any]]:
    """Metadata of a finished episode, and the raw facts {"num_steps", "steps_sha256", "metadata"}.

    Raises:
        EpisodeError: they are missing or damaged.
    """
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

    Raises:
        EpisodeError: the file is damaged or incomplete; names the first bad record.
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
    """A finished episode with decoded images.

    Raises:
        EpisodeError: it is damaged.
    """
    metadata, _ = read_facts(path)
    return Episode(steps=[decode_step(step) for step in read_steps(path)], metadata=metadata)
