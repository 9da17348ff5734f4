"""The loader: RLDS data sets to training batches. Index first: batch k is a function of (seed, k, host)."""

import itertools
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.cache import StepCache, open_cache
from data_pipeline.decode import FrameStore
from data_pipeline.index import build_index, count_samples, select_episodes
from data_pipeline.mapping import CATEGORIES, UNUSED, DatasetError, Mapping
from data_pipeline.mixture import UNIFORM, Mixture, MixtureConfig
from data_pipeline.prefetch import Batch, Prefetcher
from dexhil.names import check_known

RATE_TOLERANCE = 0.05  # rates that timestamps tell differ by as much from the one that was set


class Loader:
    """Random batches over the steps of one or more RLDS data sets.

    Args:
        dataset_dirs: later rounds beside earlier ones, all of one robot, cameras and action width.
        mapping: of their fields.
        batch_size: over all hosts.
        chunk: H, actions per sample.
        cache_dir: where the step caches live.
        image_size: px of a side in a batch; None keeps the stored size.
        split: "train", "heldout" or "all"; an episode is held out by the hash of its id alone.
        episode_filter: {"success": (1,), "task": ("plush",)} keeps episodes whose metadata is listed.
        episodes_per_task: of these the first so many of each task, before splitting.
        filter: of steps, a name of filter.FILTERS.
        mixture: how categories are drawn and weighted, but for "heldout", which is uniform.
        robot: what the caller expects, as action_dim and control_hz; anything else is refused.
    """

    def __init__(
        self,
        dataset_dirs: Sequence[str | Path],
        mapping: Mapping,
        *,
        batch_size: int,
        chunk: int,
        cache_dir: str | Path,
        seed: int = 0,
        cameras: Sequence[str] | None = None,
        image_size: int | None = None,
        split: str = "train",
        heldout_fraction: float = 0.0,
        episode_filter: Dict[str, Sequence[Any]] | None = None,
        episodes_per_task: int | None = None,
        filter: str = "last_takeover",
        mixture: MixtureConfig = UNIFORM,
        robot: str | None = None,
        action_dim: int | None = None,
        control_hz: float | None = None,
        host: int = 0,
        num_hosts: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % num_hosts or not 0 <= host < num_hosts:
            raise DatasetError(
                f"batch_size {batch_size} of host {host} of {num_hosts}: expected a host below the number of hosts, "
                f"and a batch size which that number divides"
            )
        if chunk < 1:
            raise DatasetError(f"chunk: expected at least one action, got {chunk}")
        self.mapping, self.chunk, self.batch_size, self.seed = mapping, chunk, batch_size, seed
        self._part = {"batch_size": batch_size, "host": host, "num_hosts": num_hosts}
        if not dataset_dirs:
            raise DatasetError("data.paths names no data set; give the directory of one or more")
        self._caches = [open_cache(Path(path), mapping, Path(cache_dir)) for path in dataset_dirs]
        self.robot = _common_robot(self._caches, robot)
        self.control_hz = _common_rate(self._caches, dataset_dirs, control_hz)
        self.action_dim = _common_width(self._caches, action_dim)
        self.state_dim = self._caches[0].state.shape[1]
        self.cameras = tuple(self._caches[0].cameras if cameras is None else cameras)
        for cache, camera in itertools.product(self._caches, self.cameras):
            check_known(f"{cache.directory}: camera", camera, cache.cameras)
        self._store = FrameStore(self._caches, self.cameras, image_size)
        keep = dict(episode_filter or {})
        chosen = select_episodes(self._caches, split, heldout_fraction, keep, episodes_per_task)
        self.index = build_index(self._caches, chosen, mapping.last_action_valid, filter)
        self.num_samples = count_samples(self.index)  # rows that can be drawn; they are the index's first
        self.samples = slice(self.num_samples)
        self.filter = filter
        self.mixture = Mixture(self.index, mixture if split != "heldout" else UNIFORM)
        self._chosen, self._dirs = chosen, [str(path) for path in dataset_dirs]
        self.num_datasets = len(self._dirs)  # those included that the filter left nothing of

    def all_actions(self) -> np.ndarray:
        """Actions of every sample's own step, float32 [num_samples, A], raw units."""
        return self._gather("action", self.samples)

    def all_states(self) -> np.ndarray:
        """States of every sample, float32 [num_samples, S], raw units."""
        return self._gather("state", self.samples)

    def chunks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, H, A] of rows [B], past the segment its last action, and mask bool [B, H], False there."""
        records = self.index[rows]
        steps = records["row"][:, None] + np.arange(self.chunk)  # [B, H]
        mask = steps < records["chunk_end"][:, None]
        steps = np.minimum(steps, records["chunk_end"][:, None] - 1)
        actions = np.empty((*steps.shape, self.action_dim), np.float32)
        for number, cache in enumerate(self._caches):
            here = records["dataset"] == number
            actions[here] = cache.action[steps[here]]  # [b, H, A]
        return actions, mask

    def batch(self, step: int) -> Batch:
        """Batch `step` of this host: NumPy tree, B = batch_size / num_hosts.

        Returns:
            images: camera -> uint8 [B, h, w, 3]; state [B, S]; actions [B, H, A] raw units; action_mask bool [B, H];
            instruction: str objects [B]; is_intervention bool [B], a person had taken over at this step; weight float32
            [B], the mixture's loss weight; rows int64 [B], of `index`.
        """
        return self.to_batch(self.numbers(step))

    def iterate(self, start_step: int = 0, *, workers: int = 2, prefetch: int = 2) -> Prefetcher:
        """Endless batches from `start_step` on, as of `batch`: `workers` at a time, `prefetch` ready, by tf.data."""
        return Prefetcher(self.numbers, self.to_batch, start_step, workers, prefetch)

    def card(self) -> dict[str, Any]:
        """What it draws from, JSON-ready: data sets, counts, mixture; "dropped": what the filter left out."""
        counts = np.bincount(self.index["category"], minlength=len(CATEGORIES))
        found = {name: int(count) for name, count in zip(CATEGORIES, counts, strict=True) if count}
        episodes = len(np.unique(self.index[self.samples][["dataset", "episode"]]))
        steps = sum(self._caches[dataset].episodes[number]["length"] for dataset, number in self._chosen)
        return {
            "datasets": [
                {"path": path, "sha256": cache.content_sha256, "episodes": len(cache.episodes)}
                for path, cache in zip(self._dirs, self._caches, strict=True)
            ],
            "mapping": self.mapping.name,
            "robot": self.robot,
            "control_hz": self.control_hz,
            "action_dim": self.action_dim,
            "state_dim": self.state_dim,
            "cameras": list(self.cameras),
            "filter": self.filter,
            "dropped": {"episodes": len(self._chosen) - episodes, "steps": steps - self.num_samples},
            "episodes": episodes,
            "samples": self.num_samples,
            "categories": {name: count for name, count in found.items() if name not in UNUSED},
            "unused": {name: count for name, count in found.items() if name in UNUSED},
            "mixture": self.mixture.card(),
            "instructions": sorted(self.instructions()),
        }

    def instructions(self) -> set[str]:
        """Every instruction of the samples."""
        used = np.unique(self.index[self.samples][["dataset", "instruction"]])
        return {self._caches[dataset].instructions[number] for dataset, number in used}

    def numbers(self, step: int) -> dict[str, np.ndarray]:
        """A batch as flat arrays: images under "image/<camera>", no instructions, which follow from "rows"."""
        rows = self.mixture.draw(self.seed, step, **self._part)
        records = self.index[rows]
        actions, mask = self.chunks(rows)
        images = self._store.decode(records)
        return {f"image/{camera}": images[camera] for camera in self.cameras} | {
            "state": self._gather("state", rows),
            "actions": actions,
            "action_mask": mask,
            "rows": rows,
            "is_intervention": records["category"] == CATEGORIES.index("intervention"),
            "weight": self.mixture.weights(rows),
        }

    def to_batch(self, numbers: dict[str, np.ndarray]) -> Batch:
        """The batch that the arrays of `numbers` stand for."""
        records = self.index[numbers["rows"]]
        images = {camera: numbers[f"image/{camera}"] for camera in self.cameras}
        pairs = zip(records["dataset"].tolist(), records["instruction"].tolist(), strict=True)
        texts = np.array([self._caches[dataset].instructions[i] for dataset, i in pairs], object)
        rest = {name: values for name, values in numbers.items() if not name.startswith("image/")}
        return {"images": images, "instruction": texts, **rest}

    def _gather(self, column: str, rows: np.ndarray | slice) -> np.ndarray:
        records = self.index[rows]
        gathered = np.empty((len(records), getattr(self._caches[0], column).shape[1]), np.float32)
        for number, cache in enumerate(self._caches):
            here = records["dataset"] == number
            gathered[here] = getattr(cache, column)[records["row"][here]]
        return gathered


def _common_robot(caches: Sequence[StepCache], expected: str | None) -> str:
    robot = expected or caches[0].episodes[0]["robot"]
    for cache in caches:
        for episode in cache.episodes:
            if episode["robot"] != robot:
                raise DatasetError(
                    f"episode {episode['episode_id']!r} is of robot {episode['robot']!r}, expected {robot!r} "
                    f"({'the config' if expected else 'the first episode'} says so); use data of one robot"
                )
    return robot


def _common_rate(caches: Sequence[StepCache], names: Sequence[str | Path], expected: float | None) -> float | None:
    rates = {f"data set {name}": cache.control_hz for name, cache in zip(names, caches, strict=True)}
    rates["the config"] = expected
    said = {who: rate for who, rate in rates.items() if rate is not None}
    for who, rate in said.items():
        first = next(iter(said))
        if abs(rate / said[first] - 1) > RATE_TOLERANCE:
            raise DatasetError(
                f"{who} has {rate:g} Hz, {first} has {said[first]:g} Hz; a chunk is so many steps of one rate: train "
                f"on data of one, with data.control_hz set to it"
            )
    return expected or next(iter(said.values()), None)


def _common_width(caches: Sequence[StepCache], expected: int | None) -> int:
    width = caches[0].action.shape[1]
    if expected is not None and width != expected:
        raise DatasetError(f"actions have {width} numbers, the config expects {expected}; use data of its robot")
    for cache in caches[1:]:
        for name in ("action", "state"):
            first, this = getattr(caches[0], name).shape[1], getattr(cache, name).shape[1]
            if first != this:
                raise DatasetError(f"data sets disagree: {name} of {first} numbers in the first, {this} in a later one")
    return width
