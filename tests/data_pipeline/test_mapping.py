"""Mappings name fields that exist; other people's layouts need nothing but a mapping."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.cache import check_mapping
from data_pipeline.loader import Loader
from data_pipeline.mapping import BRIDGE, CATEGORIES, DEXHIL, MAPPINGS, SIRIUS, DatasetError, get_mapping
from data_pipeline.rlds import open_rlds
from data_pipeline.tensorflow_cpu import tensorflow_datasets


def test_the_registry_is_keyed_by_name():
    for name, mapping in MAPPINGS.items():
        assert get_mapping(name) is mapping
        assert mapping.action_meaning
        assert set(mapping.labels.categories.values() if mapping.labels else ()) <= set(CATEGORIES)
    with pytest.raises(ValueError, match=r"'brige' is not known; did you mean 'bridge'"):
        get_mapping("brige")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": ("observation/q_arn",)}, "field 'observation/q_arn' is not known; did you mean 'observation/q_arm'"),
        ({"action": ("actions",)}, "field 'actions' is not known; did you mean 'action'"),
        ({"cameras": {"scene": "image_scene"}}, "did you mean 'observation/image_scene'"),
        ({"end_flag": "is_end"}, "field 'is_end'"),
        ({"instruction": "action"}, "instruction field 'action' .* is float32 of shape .*, expected a string"),
        ({"cameras": {"scene": "action"}}, "camera 'scene': field 'action' .* is a Tensor, expected an encoded Image"),
        ({"state": ("language_instruction",)}, "expected numbers of fixed width"),
        ({"metadata": {"task": "episode_metadata/tusk"}}, "did you mean 'episode_metadata/task'"),
        ({"metadata": {"tusk": "episode_metadata/task"}}, "metadata 'tusk' is not known; did you mean 'task'"),
    ],
)
def test_a_field_that_does_not_fit_is_named(dataset, change, message):
    with pytest.raises(ValueError, match=message):
        check_mapping(open_rlds(dataset), dataclasses.replace(DEXHIL, **change))


def test_bridge_reads_real_robot_episodes(shared_data, tmp_path):
    path = shared_data / "bridge_debug/bridge_dataset/1.0.0"
    arguments = {"batch_size": 4, "chunk": 4, "cache_dir": tmp_path, "heldout_fraction": 0.2}
    train = Loader([path], BRIDGE, **arguments)
    heldout = Loader([path], BRIDGE, split="heldout", **arguments)
    assert train.num_samples + heldout.num_samples == 250
    assert 0 < heldout.num_samples < 100
    assert (train.robot, train.action_dim, train.state_dim) == ("widowx", 7, 7)
    batch = train.batch(0)
    assert batch["images"]["image_0"].shape == (4, 64, 64, 3)
    assert batch["images"]["image_0"].std() > 10
    assert all(isinstance(text, str) and text for text in batch["instruction"])
    assert train.card()["categories"] == {"offline": train.num_samples}


def test_a_split_that_repeats_another_is_refused(shared_data, tmp_path):
    path = shared_data / "bridge_debug/bridge_dataset/1.0.0"
    both = dataclasses.replace(BRIDGE, splits=("train", "val"))
    with pytest.raises(DatasetError, match="is in data set 0 and again in 0"):
        Loader([path], both, batch_size=4, chunk=4, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"split 'valid' is not known; did you mean 'val'"):
        Loader([path], dataclasses.replace(BRIDGE, splits=("valid",)), batch_size=4, chunk=4, cache_dir=tmp_path)


@pytest.fixture(scope="module")
def sirius(write_rlds, tmp_path_factory):
    """Two episodes in the published layout of austin_sirius_dataset_converted_externally_to_rlds."""
    f = tensorflow_datasets().features
    image, vector = f.Image(shape=(84, 84, 3), encoding_format="jpeg"), lambda n: f.Tensor(shape=(n,), dtype=np.float32)
    observation = {"image": image, "wrist_image": image, "state": vector(8), "state_ee": vector(16)}
    step = {name: f.Scalar(np.bool_) for name in ("is_first", "is_last", "is_terminal")}
    step |= {"action": vector(7), "action_mode": vector(1), "intv_label": vector(1), "observation": observation}
    step |= {"language_instruction": f.Text(), "reward": f.Scalar(np.float32), "discount": f.Scalar(np.float32)}
    features = f.FeaturesDict({"steps": f.Dataset(step), "episode_metadata": {"file_path": f.Text()}})

    def episode(number: int, labels: list[int]) -> dict:
        last = len(labels) - 1
        steps = [
            {
                "is_first": t == 0,
                "is_last": t == last,
                "is_terminal": t == last,
                "action": np.full(7, 10 * number + t, np.float32),
                "action_mode": np.array([max(label, -1) if label != -10 else 0], np.float32),
                "intv_label": np.array([label], np.float32),
                "language_instruction": "insert the gear",
                "reward": 0.0,
                "discount": 1.0,
                "observation": {
                    "image": np.full((84, 84, 3), 90 + t, np.uint8),
                    "wrist_image": np.zeros((84, 84, 3), np.uint8),
                    "state": np.zeros(8, np.float32),
                    "state_ee": np.zeros(16, np.float32),
                },
            }
            for t, label in enumerate(labels)
        ]
        return {"steps": steps, "episode_metadata": {"file_path": f"{number}.hdf5"}}

    examples = [episode(0, [-1] * 5), episode(1, [0, 0, -10, -10, 1, 1, 1, 0])]
    return write_rlds(tmp_path_factory.mktemp("sirius") / "1.0.0", features, examples)


def test_sirius_labels_become_categories(sirius, tmp_path):
    loader = Loader([sirius], SIRIUS, batch_size=13, chunk=3, cache_dir=tmp_path)
    assert loader.card()["categories"] == {"offline": 5, "autonomous": 3, "intervention": 3, "pre_intervention": 2}
    batch = loader.batch(0)
    assert batch["images"]["scene"].shape == (13, 84, 84, 3)
    corrections = batch["actions"][batch["is_intervention"], 0, 0]
    assert sorted(corrections.tolist()) == [14, 15, 16]


def test_an_unknown_label_is_named(sirius, tmp_path):
    assert SIRIUS.labels is not None
    labels = dataclasses.replace(SIRIUS.labels, categories={-1: "offline", 0: "autonomous"})
    with pytest.raises(DatasetError, match=r"episode 1 step 2: 'intv_label' is -10.0, expected one of \[-1.0, 0.0\]"):
        Loader([sirius], dataclasses.replace(SIRIUS, labels=labels), batch_size=1, chunk=1, cache_dir=tmp_path)
