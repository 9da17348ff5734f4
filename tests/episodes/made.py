"""Small episodes for tests."""

import dataclasses
from pathlib import Path

import numpy as np

from dexhil.episodes.format import STEPS_FILE
from dexhil.episodes.recorder import EpisodeWriter
from dexhil.schema import EpisodeMetadata, Observation, Step

HZ = 20.0


def make_metadata(episode_id: str = "ep", **changes) -> EpisodeMetadata:
    facts = EpisodeMetadata(episode_id, "plush", 1, "offline", 0, "", "tester", "fr3_dexhand021", 3, 1, 0.25)
    return dataclasses.replace(facts, **changes)


def make_step(t: int, hand: int = 12, size: int = 32) -> Step:
    rng = np.random.default_rng(t)
    q = rng.normal(size=7 + hand).astype(np.float32)
    image = np.full((size, size, 3), (t * 5) % 255, np.uint8)
    seen = Observation({"scene": image, "wrist": image[::-1]}, q[:7], q[7:], q[:7], t / HZ, "Pull out a napkin")
    return Step(
        seen, q, np.full_like(q, np.nan), is_intervention=t >= 5, reward=float(t), discount=0.5, is_commanded=t != 3
    )


def record(root: Path, steps: int = 8, episode_id: str = "ep") -> Path:
    writer = EpisodeWriter(root, control_hz=HZ)
    for t in range(steps):
        writer.append(make_step(t))
    return writer.finish(make_metadata(episode_id))


def leave_open(root: Path, steps: int = 8) -> Path:
    """An episode as a dead process leaves it; returns its steps file."""
    with EpisodeWriter(root, control_hz=HZ, draft=make_metadata("draft", takeovers=0)) as writer:
        for t in range(steps):
            writer.append(make_step(t))
    return writer.directory / STEPS_FILE
