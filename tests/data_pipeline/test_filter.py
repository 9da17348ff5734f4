"""The takeover filter keeps the last takeover and what follows, and chunks stay inside what is kept."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.build import build_dataset
from data_pipeline.filter import kept_segments, takeover_starts
from data_pipeline.index import is_unused
from data_pipeline.loader import Loader
from data_pipeline.mapping import CATEGORIES, DEXHIL, DatasetError, Mapping
from data_pipeline.mixture import Mixture, MixtureConfig, mark_pre_intervention
from dexhil.episodes.recorder import EpisodeWriter
from dexhil.schema import EpisodeMetadata
from dexhil.transforms.normalization import fit_normalization
from tests.data_pipeline.conftest import make_step


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
    with pytest.raises(ValueError, match=r"filter 'last_takover' is not known; did you mean 'last_takeover'"):
        kept_segments(flags(".."), "online", 1, "last_takover")


@pytest.fixture(scope="module")
def online(tmp_path_factory, recipe, recorder):
    """Episodes of 8 steps: 1 has two takeovers, 2 none, 3 failed, 4 one at step 0, 5 one to the very end."""
    root = tmp_path_factory.mktemp("filter") / "episodes"
    takeovers = {1: ((1, 3), (5, 7)), 2: (), 3: ((2, 8),), 4: ((0, 2),), 5: ((7, 8),)}
    for number, ranges in takeovers.items():
        success = int(number != 3)
        recorder(root, recipe(number, 8, source="online", round=1, success=success, takeovers=ranges))
    return build_dataset(root, root.parent / "data")


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
    loader = load(build_dataset(tmp_path / "episodes", tmp_path / "data"))
    assert loader.card()["categories"] == {"offline": 24}


def test_data_of_which_nothing_is_kept_is_refused(load, tmp_path, recipe, recorder):
    recorder(tmp_path / "episodes", recipe(1, 4, source="online", success=0))
    failed = build_dataset(tmp_path / "episodes", tmp_path / "data")
    with pytest.raises(DatasetError, match=r"'last_takeover' keeps no step of 1 episodes: .* did not succeed"):
        load(failed)
    with pytest.raises(ValueError, match=r"filter 'non' is not known; did you mean 'none'"):
        load(filter="non")


def times(loader: Loader, number: int) -> list[tuple[int, int]]:
    """(t, step at which the chunk ends) of every row of an episode, in order."""
    rows = np.sort(loader.index[loader.index["episode"] == number], order="t")
    start = rows["row"][0] - rows["t"][0]
    return list(zip(rows["t"].tolist(), (rows["chunk_end"] - start).tolist(), strict=True))


def test_what_the_filter_drops_stays_in_the_index_and_is_never_drawn(load):
    loader = load(mixture=MixtureConfig("weight", 0.4))
    assert len(loader.index) == 5 * 8
    left = loader.index[loader.num_samples :]
    assert loader.card()["unused"] == {"filtered": 5 + 8 + 7}
    gone = sorted(1000 * (left["episode"] + 1) + left["t"])  # episodes count from 0, recipes from 1
    assert gone == sorted(steps(1, 0, 5) | steps(3, 0) | steps(5, 0, 7))
    assert (loader.mixture.weights(np.arange(len(loader.index)))[loader.num_samples :] == 0).all()
    assert (loader.mixture.weights(np.arange(loader.num_samples)) > 0).all()
    drawn = np.concatenate([loader.mixture.draw(0, step, batch_size=10) for step in range(8)])
    assert set(drawn.tolist()) == set(range(loader.num_samples))
    assert loader.mixture.counts.sum() == loader.num_samples
    assert times(loader, 0)[4:6] == [(4, 5), (5, 8)]  # neither reads across the border


@pytest.mark.parametrize("mode", ["uniform", "weight", "sample"])
def test_the_mixture_does_not_ask_where_in_the_index_the_unused_stand(load, mode):
    loader = load(mixture=MixtureConfig(mode))
    order = np.argsort(loader.index, order=("episode", "t"))
    mixed = Mixture(loader.index[order], MixtureConfig(mode))
    for step in range(3):
        drawn = mixed.draw(1, step, batch_size=4)
        assert not is_unused(loader.index[order][drawn]).any()
    assert mixed.card() == loader.mixture.card()


NUMBERS = {  # of batch 2, as they were before unused rows stood in the index: first actions, weights of the categories
    "uniform": ([1000, 1007, 2001, 5006, 1009, 1004], {"offline": 1.0, "autonomous": 1.0, "intervention": 1.0}),
    "weight": ([1000, 1007, 2001, 5006, 1009, 1004], {"offline": 0.8, "autonomous": 0.8, "intervention": 1.6}),
    "sample": ([5006, 1003, 5008, 1004, 1001, 5009], {"offline": 1.0, "autonomous": 1.0, "intervention": 1.0}),
}


@pytest.mark.parametrize("mode", sorted(NUMBERS))
def test_what_is_kept_is_drawn_and_weighted_as_ever(tmp_path, recipe, recorder, mode):
    online = {"source": "online", "round": 1}
    for made in (
        recipe(1, 12),
        recipe(5, 10, takeovers=((2, 3), (4, 10)), **online),
        recipe(2, 6, **online),
        recipe(3, 7, success=0, takeovers=((3, 7),), **online),
    ):
        recorder(tmp_path / "episodes", made)
    data = build_dataset(tmp_path / "episodes", tmp_path / "data")
    mixture = MixtureConfig(mode, 0.5 if mode == "uniform" else 0.4)
    loader = Loader([data], DEXHIL, batch_size=6, chunk=4, cache_dir=tmp_path / "cache", mixture=mixture)
    card = loader.card()
    assert card["categories"] == {"offline": 12, "autonomous": 6, "intervention": 6}
    assert card["dropped"] == {"episodes": 1, "steps": 11}
    first, weights = NUMBERS[mode]
    assert loader.batch(2)["actions"][:, 0, 0].tolist() == first
    assert card["mixture"]["w"] == pytest.approx(weights)
    stats = fit_normalization(loader.all_states(), *loader.chunks(np.arange(loader.num_samples)))
    assert stats.hash() == "73dd6e416be044f6"


@pytest.fixture
def recorded(tmp_path, recipe):
    """A loader of one online episode, made of (time s, person, commanded) of each step."""

    def make(*facts: tuple[float, bool, bool], mapping: Mapping = DEXHIL, chunk: int = 4, **changes) -> Loader:
        with EpisodeWriter(tmp_path / "episodes", control_hz=20.0) as writer:
            for t, (time, person, commanded) in enumerate(facts):
                step = make_step(recipe(0, len(facts)), t)
                seen = dataclasses.replace(step.observation, timestamp=time)
                changed = {"observation": seen, "is_intervention": person, "is_commanded": commanded}
                writer.append(dataclasses.replace(step, policy_action=step.action, **changed))
            writer.finish(EpisodeMetadata("e", "plush", 1, "online", 1, "p", "o", "fr3_dexhand021", 0, 1, 0.0))
        data = build_dataset(tmp_path / "episodes", tmp_path / "data")
        return Loader([data], mapping, batch_size=1, chunk=chunk, cache_dir=tmp_path / "cache", **changes)

    return make


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        ((0, 0.05, 0.1, 0.15, 0.2, 0.25), [6] * 6),
        ((0, 0.05, 0.1, 5.0, 5.05, 5.1), [3, 3, 3, 6, 6, 6]),
        ((0, 0.05, 0.1, 0.2, 0.25, 0.3), [3, 3, 3, 6, 6, 6]),  # one step is missing
        ((0, 0.05, 0.12, 0.15, 0.19, 0.26), [6] * 6),  # late ones are not
        ((0, 1.0, 1.05, 1.1, 1.15, 3.0), [1, 5, 5, 5, 5, 6]),
    ],
)
def test_a_chunk_ends_where_time_is_missing(recorded, seconds, ends):
    loader = recorded(*((time, True, True) for time in seconds))
    assert times(loader, 0) == list(enumerate(ends))
    actions, mask = loader.chunks(np.arange(6))
    for t, (chunk, valid, end) in enumerate(zip(actions[..., 0], mask, ends, strict=True)):
        assert valid.sum() == min(4, end - t)
        np.testing.assert_array_equal(chunk, np.minimum(np.arange(t, t + 4), end - 1))


def test_without_timestamps_nothing_is_known_to_be_missing(recorded):
    steps_s = ((time, True, True) for time in (0, 0.05, 5.0, 5.05))
    assert times(recorded(*steps_s, mapping=dataclasses.replace(DEXHIL, timestamp=None)), 0) == [
        (t, 4) for t in range(4)
    ]


def at_20_hz(who: str) -> list[tuple[float, bool, bool]]:
    """One step per character: "x" a person's, "." the policy's, "-" nobody's, "e" nobody's while a person is in."""
    return [(0.05 * t, character in "xe", character in "x.") for t, character in enumerate(who)]


@pytest.mark.parametrize("kind", ["last_takeover", "none", "corrections"])
def test_steps_in_which_nobody_commands_are_no_samples(recorded, kind):
    """Though the policy was asked at every step. A chunk ends before them, and none begins at them."""
    loader = recorded(*at_20_hz("..exx--.."), filter=kind, mixture=MixtureConfig("weight"))
    first = loader.all_actions()[:, 0].tolist()
    assert first == ([0, 1] if kind == "none" else []) + [3, 4, 7, 8]
    card = loader.card()
    assert card["unused"] == {"uncommanded": 3} | ({} if kind == "none" else {"filtered": 2})
    assert card["mixture"]["counts"] == {"autonomous": 4 if kind == "none" else 2, "intervention": 2}
    ends = dict(times(loader, 0))
    assert (ends[0], ends[3], ends[4], ends[7]) == (2, 5, 5, 9)
    assert (loader.mixture.weights(np.arange(9))[loader.num_samples :] == 0).all()


def test_a_takeover_begins_with_the_person_though_the_robot_still_holds(recorded):
    """The filter keeps from the start of the takeover on; the step in which nobody commands is not the start's end."""
    loader = recorded(*at_20_hz(".x.exx."))
    assert loader.all_actions()[:, 0].tolist() == [4, 5, 6]
    assert loader.card()["unused"] == {"filtered": 3, "uncommanded": 1}


def test_an_episode_in_which_nobody_ever_commands_is_refused(recorded):
    with pytest.raises(DatasetError, match=r"'none' keeps no step of 1 episodes"):
        recorded(*at_20_hz("----"), filter="none")


def test_data_that_do_not_say_who_commanded_are_all_commanded(recorded):
    missing = dataclasses.replace(DEXHIL, commanded="is_commanded_by_nobody_yet")
    loader = recorded(*at_20_hz("..--"), mapping=missing)
    assert loader.num_samples == 4
    assert loader.card()["unused"] == {}


def test_the_steps_before_a_takeover_are_counted_in_time(recorded):
    """Sirius marks 15 steps, those included in which nobody commanded."""
    loader = recorded(*at_20_hz("." * 10 + "-" * 10 + "." * 5 + "xxxx"), filter="none")
    marked = mark_pre_intervention(loader.index[loader.samples])
    pre = loader.index["t"][loader.samples][marked == CATEGORIES.index("pre_intervention")]
    assert pre.tolist() == [20, 21, 22, 23, 24]
