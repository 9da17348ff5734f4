"""Small recorded episodes and RLDS data sets, made once per session."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.build import build_dataset
from data_pipeline.rlds import serialize, shard_file, write_info
from data_pipeline.tensorflow_cpu import tensorflow
from dexhil.episodes.recorder import EpisodeWriter
from dexhil.schema import EpisodeMetadata, Observation, Step

LENGTHS = (9, 5, 12, 7, 6, 8)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a recorded test episode is like; action[0] of step t is `1000 * number + t`.

    takeovers: (start, end) of each; end exclusive.
    """

    number: int
    length: int
    robot: str = "fr3_dexhand021"
    hand: int = 12
    size: int = 32
    cameras: tuple[str, ...] = ("scene", "wrist")
    control_hz: float = 20.0
    success: int = 1
    source: str = "offline"
    round: int = 0
    takeovers: tuple[tuple[int, int], ...] = ()


def make_step(recipe: Recipe, t: int) -> Step:
    q = np.linspace(0, 1, 7 + recipe.hand, dtype=np.float32)
    shades = np.linspace(0, 255, recipe.size)[:, None, None] * np.linspace(0.2, 1, recipe.size)[:, None]
    image = np.broadcast_to(shades * (t + 1) / recipe.length, (recipe.size, recipe.size, 3)).astype(np.uint8)
    text = "Grab that yellow plushie" if recipe.number % 2 else "Pull out a napkin"
    images = {camera: image // (1 + number) for number, camera in enumerate(recipe.cameras)}
    seen = Observation(images, q[:7], q[7:], q[:7], t / recipe.control_hz, text)
    action = q.copy()
    action[0] = 1000 * recipe.number + t
    taken_over = any(start <= t < end for start, end in recipe.takeovers)
    return Step(seen, action, np.full_like(action, np.nan), taken_over)


def record(root: Path, recipe: Recipe) -> Path:
    """Records one episode."""
    writer = EpisodeWriter(root, control_hz=recipe.control_hz)
    for t in range(recipe.length):
        writer.append(make_step(recipe, t))
    metadata = EpisodeMetadata(
        episode_id=f"ep{recipe.round}-{recipe.number:03d}",
        task="plush" if recipe.number % 2 else "tissue",
        success=recipe.success,
        source="online" if recipe.source == "online" else "offline",
        round=recipe.round,
        policy="",
        operator="tester",
        robot=recipe.robot,
        seed=recipe.number,
        takeovers=len(recipe.takeovers),
        max_takeover_jump=0.0,
    )
    return writer.finish(metadata)


@pytest.fixture(scope="session")
def recipe() -> type[Recipe]:
    return Recipe


@pytest.fixture(scope="session")
def recorder() -> Callable[[Path, Recipe], Path]:
    return record


@pytest.fixture(scope="session")
def episodes(tmp_path_factory) -> Path:
    """Six episodes of two tasks; number 5 failed."""
    root = tmp_path_factory.mktemp("recorded") / "episodes"
    for number, length in enumerate(LENGTHS):
        record(root, Recipe(number, length, success=int(number != 5)))
    return root


@pytest.fixture(scope="session")
def dataset(episodes) -> Path:
    """`episodes` as RLDS."""
    return build_dataset(episodes, episodes.parent / "offline")


@pytest.fixture(scope="session")
def round_dataset(tmp_path_factory) -> Path:
    """Two online episodes of round 1, one with a takeover at step 4."""
    root = tmp_path_factory.mktemp("round1") / "episodes"
    record(root, Recipe(10, 8, source="online", round=1, takeovers=((4, 8),)))
    record(root, Recipe(11, 6, source="online", round=1))
    return build_dataset(root, root.parent / "round1")


@pytest.fixture(scope="session")
def write_rlds() -> Callable:
    """Writes any RLDS data set: write_rlds(directory, features, examples) -> directory."""

    def write(directory: Path, features, examples: list) -> Path:
        directory.mkdir()
        file = shard_file(directory, "sample", 0, 1)
        with tensorflow().io.TFRecordWriter(str(file)) as writer:
            for example in examples:
                writer.write(serialize(features, example))
        write_info(directory, "sample", features, [(len(examples), file.stat().st_size)])
        return directory

    return write
