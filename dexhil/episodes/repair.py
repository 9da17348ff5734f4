"""Turns what a killed recorder left into episodes, and verifies the finished ones."""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from dexhil.episodes.format import STEPS_FILE, EpisodeError, Verified, read_records, unpack_step, verify
from dexhil.episodes.recorder import OPEN_PREFIX, list_episodes, plain_id, publish, read_facts, write_metadata
from dexhil.schema import EpisodeMetadata, SchemaError

_UNKNOWN = EpisodeMetadata(
    episode_id="", task="", success=-1, source="online", round=0, policy="", operator="", robot="", seed=-1,
    takeovers=0, max_takeover_jump=float("nan"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RepairReport:
    """What `repair` did.

    Attributes:
        salvaged: episode -> its steps.
        empty: paths without a step.
        still_recording: paths that a process has open.
        unreadable: path -> why it could not be salvaged.
        damaged: path -> what is wrong with a finished episode.
    """

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

    It gets the writer's draft metadata with success = -1, or the full ones if the process died between writing them and
    the rename. Finished episodes are verified and reported, never changed.
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
    try:
        verified, (_, facts) = verify(path / STEPS_FILE), read_facts(path)
    except (OSError, EpisodeError) as error:
        return str(error)
    missing = verified.num_steps != facts["num_steps"]
    return verified.damage or (f"{verified.num_steps} steps, {facts['num_steps']} were recorded" if missing else "")


def _repair_one(directory: Path, report: RepairReport) -> None:
    try:
        with os.fdopen(os.open(directory / STEPS_FILE, os.O_RDWR), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _salvage(directory, file, report)
    except BlockingIOError:
        report.still_recording.append(directory.name)
    except FileNotFoundError:
        report.unreadable[directory.name] = f"{STEPS_FILE}: no such file; it is no recorded episode"
    except Exception as error:  # whatever lies there: the others are still salvaged
        report.unreadable[directory.name] = str(error) or type(error).__name__


def _salvage(directory: Path, file: BinaryIO, report: RepairReport) -> None:
    verified = verify(directory / STEPS_FILE)
    if verified.header is None:
        report.unreadable[directory.name] = verified.damage or "no header"
    elif verified.num_steps == 0:
        shutil.rmtree(directory)
        report.empty.append(directory.name)
    else:
        file.truncate(verified.end)
        os.fsync(file)
        content = file.read()
        metadata = _salvaged_metadata(directory, verified)
        write_metadata(directory, metadata, verified.num_steps, hashlib.sha256(content).hexdigest())
        publish(directory, directory.parent / metadata.episode_id)
        report.salvaged[metadata.episode_id] = verified.num_steps


def _salvaged_metadata(directory: Path, verified: Verified) -> EpisodeMetadata:
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
    records = read_records(file)
    next(records)
    flags = [unpack_step(payload).is_intervention for payload in records]
    return sum(now and not before for before, now in itertools.pairwise(flags))


def _free_id(directory: Path, episode_id: str) -> str:
    plain = plain_id(episode_id) or plain_id(f"salvaged-{directory.name.removeprefix(OPEN_PREFIX)}")
    free, count = plain, 1
    while (directory.parent / free).exists():
        free, count = f"{plain}-salvaged{count}", count + 1
    return free
