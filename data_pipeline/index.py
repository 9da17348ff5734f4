"""Which steps are training samples: episode filter, held-out split, and the index table of all steps. Pure NumPy."""

import hashlib
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.cache import METADATA, StepCache
from data_pipeline.filter import kept_segments
from data_pipeline.mapping import CATEGORIES, UNUSED, DatasetError
from dexhil.names import check_known

INDEX_DTYPE = np.dtype(
    [
        ("dataset", np.int16),  # number of the data set
        ("row", np.int64),  # step in that data set's cache
        ("chunk_end", np.int64),  # row that no chunk reads: the end of the segment, or a break in it
        ("episode", np.int32),  # number of the episode in its data set
        ("t", np.int32),  # step in its episode
        ("instruction", np.int32),  # in the data set's vocabulary
        ("category", np.int8),  # in mapping.CATEGORIES
    ]
)


def select_episodes(
    caches: Sequence[StepCache],
    split: str,
    heldout_fraction: float,
    keep: Dict[str, Sequence[Any]],
    per_task: int | None = None,
) -> list[tuple[int, int]]:
    """(data set, episode) pairs of a split that pass the filter, in order; of each task only the first `per_task`.

    An episode's split depends on its id alone; only the first data set's episode of the lowest hash is held out in any
    case (fraction above 0). So adding data sets moves none.

    Raises:
        DatasetError: nothing is left.
    """
    check_known("split", split, ("train", "heldout", "all"))
    if not 0.0 <= heldout_fraction < 1.0:
        raise DatasetError(f"heldout_fraction: expected 0 <= fraction < 1, got {heldout_fraction}")
    for name in keep:
        check_known("episode_filter", name, METADATA)
    _check_distinct(caches)
    pairs = [(d, e) for d, cache in enumerate(caches) for e in range(len(cache.episodes))]
    pairs = [(d, e) for d, e in pairs if all(caches[d].episodes[e][name] in keep[name] for name in keep)]
    pairs = _first_of_each_task(caches, pairs, per_task)
    hashes = {(d, e): _unit_hash(caches[d].episodes[e]["episode_id"]) for d, e in pairs}
    first_set = [p for p in pairs if p[0] == pairs[0][0]]
    forced = [min(first_set, key=hashes.__getitem__)] if first_set and heldout_fraction else []
    held_out = {p for p in pairs if hashes[p] < heldout_fraction or p in forced}
    chosen = [p for p in pairs if split == "all" or (p in held_out) == (split == "heldout")]
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
    kept, counts = [], Counter()
    for dataset, episode in pairs:
        task = caches[dataset].episodes[episode]["task"]
        counts[task] += 1
        kept += [(dataset, episode)] if counts[task] <= per_task else []
    for task, count in counts.items():
        if count < per_task:
            raise DatasetError(f"episodes_per_task {per_task}: task {task!r} has {count} that pass the filter")
    return kept


def _check_distinct(caches: Sequence[StepCache]) -> None:
    seen: dict[str, tuple[int, int]] = {}
    for dataset, cache in enumerate(caches):
        for episode in cache.episodes:
            name, here = episode["episode_id"], (dataset, episode["number"])
            if name in seen:
                raise DatasetError(
                    f"episode {name!r} is in data set {seen[name][0]} and again in {dataset}, as number "
                    f"{seen[name][1]} and {here[1]}: name each data set once, splits that repeat another not at all, "
                    f"and give every episode an id of its own"
                )
            seen[name] = here


def _unit_hash(episode_id: str) -> float:
    digest = hashlib.sha256(f"0/{episode_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def build_index(
    caches: Sequence[StepCache],
    chosen: Sequence[tuple[int, int]],
    last_action_valid: bool = True,
    filter: str = "last_takeover",
) -> np.ndarray:
    """INDEX_DTYPE [steps]: every step of the chosen episodes, the training samples first (see `count_samples`).

    What `filter`, of filter.FILTERS, leaves out and steps in which nobody commanded stand after the samples, in
    categories of their own (mapping.UNUSED). A chunk ends where the filter begins or ends, where nobody commands and
    where time is missing, and with nothing else: it may read across a change of control. Without a valid last action an
    episode ends one step earlier.

    Raises:
        DatasetError: no step is kept.
    """
    parts = [_episode_rows(caches[dataset], dataset, number, last_action_valid, filter) for dataset, number in chosen]
    index = np.concatenate([np.zeros(0, INDEX_DTYPE), *parts])
    index = index[np.argsort(is_unused(index), kind="stable")]
    if not count_samples(index):
        raise DatasetError(
            f"filter {filter!r} keeps no step of {len(chosen)} episodes: it drops every online episode that did not "
            f"succeed; record successful ones, or add demonstrations"
        )
    return index


def is_unused(index: np.ndarray) -> np.ndarray:
    """bool [N]: rows that are never drawn."""
    return np.isin(index["category"], [CATEGORIES.index(name) for name in UNUSED])


def count_samples(index: np.ndarray) -> int:
    """Training samples of an index: its rows that may be drawn."""
    return int(np.count_nonzero(~is_unused(index)))


def _episode_rows(cache: StepCache, dataset: int, number: int, last_action_valid: bool, filter: str) -> np.ndarray:
    episode = cache.episodes[number]
    rows = np.arange(episode["start"], episode["start"] + episode["length"])
    category, commanded = cache.category[rows], cache.commanded[rows]
    is_intervention = category == CATEGORIES.index("intervention")
    segment = np.full(len(rows), -1)
    for kept, (start, end) in enumerate(kept_segments(is_intervention, episode["source"], episode["success"], filter)):
        segment[start:end] = kept
    category[segment < 0] = CATEGORIES.index("filtered")
    category[~commanded] = CATEGORIES.index("uncommanded")
    last = episode["length"] - (not last_action_valid)
    steps = np.arange(last)
    breaks = cache.gap[rows] | ~commanded | (np.diff(segment, prepend=segment[:1]) != 0)
    ends = np.append(np.flatnonzero(breaks[:last]), last)
    part = np.zeros(last, INDEX_DTYPE)
    part["dataset"], part["episode"] = dataset, number
    part["t"], part["row"], part["category"] = steps, rows[:last], category[:last]
    part["chunk_end"] = episode["start"] + ends[np.searchsorted(ends, steps, side="right")]
    part["instruction"] = cache.instruction[rows[:last]]
    return part
