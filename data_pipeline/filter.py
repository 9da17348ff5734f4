"""Which steps of an episode are kept: the last takeover and what follows. Pure NumPy."""

import numpy as np

from dexhil.names import check_known

FILTERS = ("last_takeover", "corrections", "none")


def takeover_starts(is_intervention: np.ndarray) -> np.ndarray:
    """Steps at which takeovers start, int64, ascending; a takeover is a maximal run of True in bool [T]."""
    before = np.concatenate([[False], is_intervention[:-1]])
    return np.flatnonzero(is_intervention & ~before)


def kept_segments(
    is_intervention: np.ndarray, source: str, success: int, mode: str = "last_takeover"
) -> list[tuple[int, int]]:
    """The kept steps of one episode as segments (start, end), end exclusive; none where the episode is dropped.

    Of a successful online episode "last_takeover" keeps what follows the start of the last takeover, or all where there
    is none; "corrections" the same, or nothing; "none" keeps all. Any other online episode is dropped. Demonstrations
    (any source but "online") stay whole: the loader's episode_filter chooses. Source: DexHiL, the filter of its rounds.

    Args:
        is_intervention: bool [T].
        source: of the episode's metadata.
        success: of the episode's metadata.
        mode: of FILTERS.

    Raises:
        ValueError: the mode is unknown.
    """
    check_known("filter", mode, FILTERS)
    start, end = 0, len(is_intervention)
    if source == "online":
        if success != 1:
            return []
        starts = takeover_starts(is_intervention)
        if mode == "corrections" and not len(starts):
            return []
        if mode != "none" and len(starts):
            start = int(starts[-1])
    return [(start, end)]
