"""Recorded episodes become an RLDS data set that TFDS reads, unchanged, or a clear error and nothing on disk."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from data_pipeline import build
from data_pipeline.build import build_dataset, main
from data_pipeline.card import EpisodeSummary, make_card
from data_pipeline.mapping import DatasetError
from data_pipeline.tensorflow_cpu import tensorflow_datasets
from dexhil.episodes.format import STEPS_FILE, EpisodeError
from dexhil.episodes.recorder import EpisodeWriter, list_episodes, read_facts, read_steps


def read_back(dataset):
    """Episodes through TFDS, images still encoded."""
    tfds = tensorflow_datasets()
    builder = tfds.builder_from_directory(dataset)
    skip = dict.fromkeys(("image_scene", "image_wrist"), tfds.decode.SkipDecoding())
    episodes = builder.as_dataset(split="train", decoders={"steps": {"observation": skip}})
    return [(e["episode_metadata"], list(e["steps"].as_numpy_iterator())) for e in episodes]


def test_tfds_reads_what_was_recorded(episodes, dataset):
    read = read_back(dataset)
    assert len(read) == 6
    for path, (metadata, steps) in zip(list_episodes(episodes), read, strict=True):
        told, _ = read_facts(path)
        assert {k: v.numpy() for k, v in metadata.items()} == {
            k: v.encode() if isinstance(v, str) else v for k, v in vars(told).items()
        }
        for i, (step, recorded) in enumerate(zip(steps, read_steps(path), strict=True)):
            observation = step["observation"]
            for camera, jpeg in recorded.images.items():
                assert observation[f"image_{camera}"] == jpeg  # no second encoding
            assert observation["timestamp"] == recorded.timestamp  # float64 kept
            np.testing.assert_array_equal(step["action"], recorded.arrays["action"])
            np.testing.assert_array_equal(step["policy_action"], recorded.arrays["policy_action"])
            for name in ("q_arm", "q_hand", "pose_base_ee"):
                np.testing.assert_array_equal(observation[name], recorded.arrays[name])
            flags = (step["is_first"], step["is_last"], step["is_terminal"])
            last = i == len(steps) - 1
            assert flags == (i == 0, last, last and told.success == 1)
            assert step["language_instruction"].decode() == recorded.language_instruction


def test_schema_names_and_dtypes(dataset):
    features = tensorflow_datasets().builder_from_directory(dataset).info.features
    step = features["steps"].feature
    dtypes = {name: str(np.dtype(feature.np_dtype)) for name, feature in step.items() if name != "observation"}
    assert dtypes == {
        **dict.fromkeys(("is_first", "is_last", "is_terminal", "is_intervention", "is_commanded"), "bool"),
        **dict.fromkeys(("reward", "discount", "action", "policy_action"), "float32"),
        "language_instruction": "object",
    }
    observation = {name: str(np.dtype(feature.np_dtype)) for name, feature in step["observation"].items()}
    assert observation == {
        **dict.fromkeys(("image_scene", "image_wrist"), "uint8"),
        **dict.fromkeys(("q_arm", "q_hand", "pose_base_ee"), "float32"),
        "timestamp": "float64",
    }
    metadata = features["episode_metadata"]
    assert (metadata["success"].np_dtype, metadata["round"].np_dtype, metadata["takeovers"].np_dtype) == (
        np.int8,
        np.int32,
        np.int32,
    )


def test_the_card_counts(dataset, round_dataset):
    card = json.loads((dataset / "card.json").read_text())
    assert (card["episodes"], card["steps"], card["robot"]) == (6, 47, "fr3_dexhand021")
    assert card["task"] == {"plush": {"episodes": 3, "steps": 20}, "tissue": {"episodes": 3, "steps": 27}}
    assert card["success"] == {"0": {"episodes": 1, "steps": 8}, "1": {"episodes": 5, "steps": 39}}
    assert card["image_shapes"] == {"scene": [32, 32, 3], "wrist": [32, 32, 3]}
    assert card["action_range"]["max"][0] == 5007
    online = json.loads((round_dataset / "card.json").read_text())
    assert (online["intervention_steps"], online["takeovers"]) == (4, 1)
    assert online["round"] == {"1": {"episodes": 2, "steps": 14}}
    assert "4 steps by a person who took over, 1 takeovers" in (round_dataset / "card.md").read_text()


def test_shards_hold_the_episodes_in_order_and_change_nothing(episodes, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SHARD_BYTES", 20_000)
    one, two = (build_dataset(episodes, tmp_path / name) for name in ("one", "two"))
    names = sorted(path.name for path in one.iterdir())
    assert sum("tfrecord" in name for name in names) > 1
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert [metadata["episode_id"].numpy().decode() for metadata, _ in read_back(two)] == [
        path.name for path in list_episodes(episodes)
    ]


def test_a_data_set_is_never_edited(episodes, dataset, round_dataset, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in dataset.iterdir()}
    assert build_dataset(episodes, dataset) == dataset  # the same episodes: nothing to do
    with pytest.raises(DatasetError, match="was not built from these episodes; data sets are never edited"):
        build_dataset(episodes, round_dataset)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DatasetError, match="mine exists"):
        build_dataset(episodes, tmp_path / "mine")
    assert {path: path.stat().st_mtime_ns for path in dataset.iterdir()} == before


def test_other_episodes_of_the_same_names_are_other_episodes(tmp_path, recipe, recorder):
    for folder, length in (("first", 2), ("second", 3)):
        recorder(tmp_path / folder, recipe(0, length))
    out = build_dataset(tmp_path / "first", tmp_path / "out")
    with pytest.raises(DatasetError, match="was not built from these episodes"):
        build_dataset(tmp_path / "second", out)


def test_a_summary_of_steps_that_begin_late(recipe, recorder, tmp_path):
    steps = [
        dataclasses.replace(step, timestamp=step.timestamp + 7)
        for step in read_steps(recorder(tmp_path, recipe(0, 101)))
    ]
    summary = EpisodeSummary.of(steps, read_facts(tmp_path / "ep0-000")[0])
    assert summary.duration == pytest.approx(5.0)
    ranges = make_card([summary], {}, "")["action_range"]
    assert [ranges[name][0] for name in ("min", "q01", "q99", "max")] == [0, 1, 99, 100]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robot": "ur5"}, "ep0-001 has robot 'ur5', ep0-000 has 'fr3_dexhand021'"),
        ({"hand": 10}, "ep0-001 has action_dim 17, ep0-000 has 19"),
        ({"cameras": ("scene",)}, "ep0-001 has image_shapes .*'scene'"),
        ({"size": 16}, r"ep0-001 has image_shapes .*16, 16, 3"),
        ({"control_hz": 10.0}, "ep0-001 has control_hz 10.0, ep0-000 has 20.0"),
    ],
)
def test_episodes_that_differ_are_refused_by_name(tmp_path, recipe, recorder, change, message):
    recorder(tmp_path / "episodes", recipe(0, 2))
    recorder(tmp_path / "episodes", recipe(1, 2, **change))
    with pytest.raises(DatasetError, match=message):
        build_dataset(tmp_path / "episodes", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


def test_a_damaged_episode_is_named_and_nothing_is_left(episodes, tmp_path):
    root = shutil.copytree(episodes, tmp_path / "episodes")
    file = root / "ep0-003" / STEPS_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(EpisodeError, match=r"ep0-003/steps.bin: record 7 .* is truncated"):
        build_dataset(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


def test_no_episodes_points_to_the_open_ones(tmp_path):
    with EpisodeWriter(tmp_path, control_hz=20.0):
        pass
    with pytest.raises(DatasetError, match=r"no finished episodes .*1 were left open: .*repair"):
        build_dataset(tmp_path, tmp_path / "out")


def test_the_build_command(episodes, tmp_path, capsys):
    assert main([str(episodes), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "built 6/6 episodes" in said
    assert "6 episodes, 47 steps" in said
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out2")]) == 2
    assert "no directory of episodes" in capsys.readouterr().err
