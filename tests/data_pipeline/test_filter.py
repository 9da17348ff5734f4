"""The takeover filter keeps the last takeover and what follows, and chunks stay inside what is kept."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.build import build_dataset
from data_pipeline.filter import kept_segments, takeover_starts
from data_pipeline.loader import Loader
from data_pipeline.mapping import DEXHIL, DatasetError, Mapping


def flags(text: str) -> np.ndarray:
    """bool [T] from one character per step: "x" is a person's."""
    return np.array([character == "x" for character in text], bool)


@pytest.mark.parametrize(
    ("text", "starts"), [("......", []), ("xx..x.", [0, 4]), ("...xxx", [3]), (".x.x.x", [1, 3, 5]), ("xxxx", [0])]
)
def test_a_takeover_starts_with_each_run(text, starts):
    assert takeover_starts(flags(text)).tolist() == starts


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("..........", (0, 10)),
        ("...xxx....", (3, 10)),
        (".xx..xx...", (5, 10)),
        ("xxx.......", (0, 10)),
        ("x.x.x.....", (4, 10)),
        (".......xxx", (7, 10)),
        (".........x", (9, 10)),
        ("xxxxxxxxxx", (0, 10)),
    ],
)
def test_the_last_takeover_and_what_follows(text, kept):
    assert kept_segments(flags(text), "online", 1) == [kept]
    assert kept_segments(flags(text), "online", 1, "none") == [(0, 10)]
    assert kept_segments(flags(text), "online", 1, "corrections") == ([kept] if "x" in text else [])
    for mode in ("last_takeover", "corrections", "none"):
        assert kept_segments(flags(text), "online", 0, mode) == []
        assert kept_segments(flags(text), "online", -1, mode) == []
        assert kept_segments(flags(text), "offline", 1, mode) == [(0, 10)]


def test_an_unknown_filter_is_named():
    with pytest.raises(DatasetError, match=r"filter 'last_takover' is not in .*did you mean 'last_takeover'"):
        kept_segments(flags(".."), "online", 1, "last_takover")


@pytest.fixture(scope="module")
def online(tmp_path_factory, recipe, recorder):
    """Episodes of 8 steps: 1 has two takeovers, 2 none, 3 failed, 4 one at step 0, 5 one to the very end."""
    root = tmp_path_factory.mktemp("filter") / "episodes"
    takeovers = {1: ((1, 3), (5, 7)), 2: (), 3: ((2, 8),), 4: ((0, 2),), 5: ((7, 8),)}
    for number, ranges in takeovers.items():
        success = int(number != 3)
        recorder(root, recipe(number, 8, source="online", round=1, success=success, takeovers=ranges))
    return build_dataset(root, root.parent / "data", workers=1)


@pytest.fixture
def load(online, tmp_path_factory):
    def make(*datasets: Path, mapping: Mapping = DEXHIL, **changes) -> Loader:
        cache_dir = tmp_path_factory.getbasetemp() / "filter-cache"
        return Loader(datasets or (online,), mapping, batch_size=4, chunk=3, cache_dir=cache_dir, **changes)

    return make


def first_actions(loader: Loader) -> set[int]:
    """1000 * episode + step of every sample."""
    return set(loader.all_actions()[:, 0].astype(int).tolist())


def steps(number: int, start: int, end: int = 8) -> set[int]:
    return set(range(1000 * number + start, 1000 * number + end))


def test_the_index_holds_exactly_the_kept_steps(load):
    loader = load()
    assert first_actions(loader) == steps(1, 5) | steps(2, 0) | steps(4, 0) | steps(5, 7)
    card = loader.card()
    assert card["categories"] == {"autonomous": 1 + 8 + 6, "intervention": 2 + 2 + 1}
    assert (card["filter"], card["dropped"]) == ("last_takeover", {"episodes": 1, "steps": 8 + 5 + 7})
    assert (card["episodes"], card["samples"]) == (4, 20)
    everything = load(filter="none")
    assert first_actions(everything) == set().union(*(steps(number, 0) for number in (1, 2, 4, 5)))
    assert everything.card()["dropped"] == {"episodes": 1, "steps": 8}


@pytest.mark.parametrize("kind", ["last_takeover", "none"])
def test_chunks_stay_in_their_segment(load, kind):
    loader = load(filter=kind)
    actions, mask = loader.chunks(np.arange(loader.num_samples))
    for record, chunk, valid in zip(loader.index[loader.samples], actions[..., 0], mask, strict=True):
        first = 1000 * (record["episode"] + 1)
        assert valid.sum() == min(3, 8 - record["t"])
        np.testing.assert_array_equal(chunk, first + np.minimum(record["t"] + np.arange(3), 7))


def test_a_last_action_that_is_not_valid_is_cut_from_the_kept_steps(load):
    """The takeover of episode 5 is that step alone: nothing is left of it, and what came before does not come back."""
    loader = load(mapping=dataclasses.replace(DEXHIL, last_action_valid=False))
    kept = steps(1, 5, 7) | steps(2, 0, 7) | steps(4, 0, 7)
    assert first_actions(loader) == kept
    actions, _ = loader.chunks(np.arange(loader.num_samples))
    assert set(actions[..., 0].astype(int).ravel().tolist()) == kept


def test_demonstrations_are_whole_and_offline_whatever_their_flags(load, tmp_path, recipe, recorder):
    for number, takeovers in enumerate([((0, 8),), ((3, 5),), ()]):
        recorder(tmp_path / "episodes", recipe(number, 8, takeovers=takeovers))
    loader = load(build_dataset(tmp_path / "episodes", tmp_path / "data", workers=1))
    assert loader.card()["categories"] == {"offline": 24}


def test_data_of_which_nothing_is_kept_is_refused(load, tmp_path, recipe, recorder):
    recorder(tmp_path / "episodes", recipe(1, 4, source="online", success=0))
    failed = build_dataset(tmp_path / "episodes", tmp_path / "data", workers=1)
    with pytest.raises(DatasetError, match=r"'last_takeover' keeps no step of 1 episodes: .* did not succeed"):
        load(failed)
    with pytest.raises(DatasetError, match=r"filter 'non' is not in .*did you mean 'none'"):
        load(filter="non")
