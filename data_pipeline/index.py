"""Which steps are training samples: episode filter, held-out split, and the index table. Pure NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.cache import METADATA, StepCache
from data_pipeline.filter import kept_segments
from data_pipeline.mapping import CATEGORIES, DatasetError, check_known

INDEX_DTYPE = np.dtype(
    [
        ("dataset", np.int16),  # number of the data set
        ("row", np.int64),  # step in that data set's cache
        ("chunk_end", np.int64),  # row at which the segment ends (exclusive): no chunk reads it
        ("round", np.int32),
        ("episode", np.int32),  # number of the episode in its data set
        ("t", np.int32),  # step in its episode
        ("segment", np.int32),  # number of the segment in its episode
        ("instruction", np.int32),  # in the data set's vocabulary
        ("category", np.int8),  # in mapping.CATEGORIES
    ]
)
SPLITS = ("train", "heldout", "all")


def select_episodes(
    caches: Sequence[StepCache],
    split: str,
    heldout_fraction: float,
    split_seed: int,
    keep: Dict[str, Sequence[Any]],
    per_task: int | None = None,
) -> list[tuple[int, int]]:
    """(data set, episode) pairs of a split that pass the filter, in order; of each task only the first `per_task`.

    An episode's split depends on its id and the seed alone; only the first data set's episode of the lowest hash is
    held out in any case (fraction above 0). So adding data sets moves none. Raises DatasetError where nothing is left.
    """
    check_known(split, SPLITS, "split", "the loader's splits")
    if not 0.0 <= heldout_fraction < 1.0:
        raise DatasetError(f"heldout_fraction: expected 0 <= fraction < 1, got {heldout_fraction}")
    for name in keep:
        check_known(name, METADATA, "episode_filter", "the episode metadata")
    _check_distinct(caches)
    pairs = [(d, e) for d, cache in enumerate(caches) for e in range(len(cache.episodes))]
    pairs = [(d, e) for d, e in pairs if all(caches[d].episodes[e][name] in keep[name] for name in keep)]
    pairs = _first_of_each_task(caches, pairs, per_task)
    hashes = {(d, e): _unit_hash(caches[d].episodes[e]["episode_id"], split_seed) for d, e in pairs}
    first_set = [p for p in pairs if p[0] == pairs[0][0]]
    forced = [min(first_set, key=hashes.__getitem__)] if first_set and heldout_fraction else []
    chosen = [
        p for p in pairs if split == "all" or (hashes[p] < heldout_fraction or p in forced) == (split == "heldout")
    ]
    if not chosen:
        count = sum(len(cache.episodes) for cache in caches)
        raise DatasetError(
            f"no episode is left in split {split!r} with heldout_fraction {heldout_fraction} and filter {dict(keep)}: "
            f"{len(pairs)} of {count} pass the filter"
        )
    return chosen


def _first_of_each_task(
    caches: Sequence[StepCache], pairs: list[tuple[int, int]], per_task: int | None
) -> list[tuple[int, int]]:
    if per_task is None:
        return pairs
    by_task: dict[str, list[tuple[int, int]]] = {}
    for dataset, episode in pairs:
        by_task.setdefault(caches[dataset].episodes[episode]["task"], []).append((dataset, episode))
    for task, found in by_task.items():
        if len(found) < per_task:
            raise DatasetError(f"episodes_per_task {per_task}: task {task!r} has {len(found)} that pass the filter")
    return sorted(pair for found in by_task.values() for pair in found[:per_task])


def _check_distinct(caches: Sequence[StepCache]) -> None:
    seen: dict[str, int] = {}
    for number, cache in enumerate(caches):
        for episode in cache.episodes:
            if episode["episode_id"] in seen:
                raise DatasetError(
                    f"episode {episode['episode_id']!r} is in data set {seen[episode['episode_id']]} and again in "
                    f"{number}: name each data set once, and splits that repeat another not at all"
                )
            seen[episode["episode_id"]] = number


def _unit_hash(episode_id: str, seed: int) -> float:
    """In [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{episode_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def build_index(
    caches: Sequence[StepCache],
    chosen: Sequence[tuple[int, int]],
    last_action_valid: bool = True,
    filter: str = "last_takeover",
) -> np.ndarray:
    """INDEX_DTYPE [samples]: the steps of the chosen episodes that the filter keeps (a name of filter.FILTERS).

    A chunk ends with its segment and with nothing else: inside one, it may read across a change of control. Without a
    valid last action an episode ends one step earlier, for samples and for chunks. Raises DatasetError where no step
    is kept.
    """
    parts = [np.zeros(0, INDEX_DTYPE)]
    for dataset, number in chosen:
        cache, episode = caches[dataset], caches[dataset].episodes[number]
        rows = slice(episode["start"], episode["start"] + episode["length"])
        is_intervention = cache.category[rows] == CATEGORIES.index("intervention")
        last = episode["length"] - (0 if last_action_valid else 1)
        for segment, (start, end) in enumerate(
            kept_segments(is_intervention, episode["source"], episode["success"], filter)
        ):
            part = np.zeros(max(0, min(end, last) - start), INDEX_DTYPE)
            part["dataset"], part["episode"], part["round"] = dataset, number, episode["round"]
            part["segment"] = segment
            part["t"] = start + np.arange(len(part))
            part["row"] = episode["start"] + part["t"]
            part["chunk_end"] = episode["start"] + min(end, last)
            part["instruction"] = cache.instruction[part["row"]]
            part["category"] = cache.category[part["row"]]
            parts.append(part)
    index = np.concatenate(parts)
    if not len(index):
        raise DatasetError(
            f"filter {filter!r} keeps no step of {len(chosen)} episodes: it drops every online episode that did not "
            f"succeed; record successful ones, or add demonstrations"
        )
    return index
