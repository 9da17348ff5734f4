"""Bytes of a recorded episode: framed, checksummed records that can be verified one by one. NumPy and simplejpeg only.

An episode directory holds `steps.bin` and, once complete, `episode.json`. `steps.bin` is a magic line, then records:
`[u32 length][u32 CRC-32 of the payload][payload]`. Record 0 is a JSON header, each further record is one step:
`[u32 length][JSON: scalars, sizes of the parts][float32 arrays][JPEG of each camera]`.
"""

import dataclasses
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg

from dexhil.schema import Observation, Step

MAGIC = b"DEXHIL-EPISODE-1\n"
STEPS_FILE = "steps.bin"
METADATA_FILE = "episode.json"
ARRAYS = ("q_arm", "q_hand", "pose_base_ee", "action", "policy_action")

_FRAME = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


class EpisodeError(ValueError):
    """A recorded episode that cannot be read or written as asked; the message names it and the remedy."""


@dataclasses.dataclass(frozen=True)
class EncodedStep:
    """One step with its images still as JPEG bytes, and its float32 vectors by the names in `ARRAYS`."""

    images: dict[str, bytes]
    arrays: dict[str, np.ndarray]
    timestamp: float
    language_instruction: str
    is_intervention: bool
    reward: float
    discount: float
    is_commanded: bool = True  # episodes recorded before it was there do not say


def encode_image(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of uint8 [H, W, 3] RGB, with full colour resolution (thin coloured objects survive)."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="444"
    )


def encode_step(step: Step, quality: int) -> EncodedStep:
    """The step with its images compressed."""
    seen = step.observation
    arrays = {"q_arm": seen.q_arm, "q_hand": seen.q_hand, "pose_base_ee": seen.pose_base_ee}
    return EncodedStep(
        images={camera: encode_image(image, quality) for camera, image in seen.images.items()},
        arrays=arrays | {"action": step.action, "policy_action": step.policy_action},
        timestamp=float(seen.timestamp),
        language_instruction=seen.language_instruction,
        is_intervention=bool(step.is_intervention),
        reward=float(step.reward),
        discount=float(step.discount),
        is_commanded=bool(step.is_commanded),
    )


def decode_step(step: EncodedStep) -> Step:
    """The step with its images as uint8 [H, W, 3] arrays."""
    arrays = step.arrays
    observation = Observation(
        images={camera: simplejpeg.decode_jpeg(data) for camera, data in step.images.items()},
        **{name: arrays[name] for name in ("q_arm", "q_hand", "pose_base_ee")},
        timestamp=step.timestamp,
        language_instruction=step.language_instruction,
    )
    return Step(
        observation=observation,
        action=arrays["action"],
        policy_action=arrays["policy_action"],
        is_intervention=step.is_intervention,
        reward=step.reward,
        discount=step.discount,
        is_commanded=step.is_commanded,
    )


def pack_step(step: EncodedStep) -> bytes:
    """Payload of one step record."""
    scalars = {name: value for name, value in vars(step).items() if name not in ("images", "arrays")}
    sizes = {
        "arrays": {name: len(step.arrays[name]) for name in ARRAYS},
        "images": {camera: len(data) for camera, data in step.images.items()},
    }
    head = json.dumps(scalars | sizes, ensure_ascii=False).encode()
    arrays = [step.arrays[name].astype("<f4").tobytes() for name in ARRAYS]
    return b"".join([_LENGTH.pack(len(head)), head, *arrays, *step.images.values()])


def unpack_step(payload: bytes) -> EncodedStep:
    """Inverse of `pack_step`."""
    (head_size,) = _LENGTH.unpack_from(payload)
    at = _LENGTH.size + head_size
    head: dict[str, Any] = json.loads(payload[_LENGTH.size : at])
    arrays, images = {}, {}
    for name, count in head.pop("arrays").items():
        arrays[name] = np.frombuffer(payload, "<f4", count, at).astype(np.float32)
        at += 4 * count
    for camera, size in head.pop("images").items():
        images[camera] = payload[at : at + size]
        at += size
    return EncodedStep(images=images, arrays=arrays, **head)


def frame(payload: bytes) -> bytes:
    """A record: length, checksum, payload."""
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


@dataclasses.dataclass(frozen=True)
class Verified:
    """What a scan of `steps.bin` could verify: `end` bytes of good records, and the `damage` after them, "" if none."""

    header: dict[str, Any] | None
    num_steps: int
    end: int
    damage: str


def read_records(path: Path) -> Iterator[bytes]:
    """Payloads of the records of a `steps.bin`, each verified.

    Raises:
        EpisodeError: at the first damaged record.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise EpisodeError(
                f"{path}: does not start with {MAGIC!r}; it is no recorded episode, or its head is damaged"
            )
        size, number = os.fstat(file.fileno()).st_size, 0
        while file.tell() < size:
            yield _read_record(file, size, f"{path}: record {number} (0 is the header)")
            number += 1


def _read_record(file: BinaryIO, size: int, name: str) -> bytes:
    head = file.read(_FRAME.size)
    length, checksum = _FRAME.unpack(head) if len(head) == _FRAME.size else (size, 0)
    if file.tell() + length > size:
        raise EpisodeError(f"{name} is truncated: it says {length} bytes, {size - file.tell()} are left")
    payload = file.read(length)
    if zlib.crc32(payload) != checksum:
        raise EpisodeError(f"{name} is damaged: its checksum differs")
    return payload


def verify(path: Path) -> Verified:
    """What a `steps.bin` holds up to its first damaged record, which is reported and not raised."""
    header, count, end, damage = None, 0, len(MAGIC), ""
    try:
        for payload in read_records(path):
            if header is None:
                header = json.loads(payload)
            else:
                count += 1
            end += _FRAME.size + len(payload)
    except ValueError as error:
        damage = str(error)
    return Verified(header, count, end, damage)
