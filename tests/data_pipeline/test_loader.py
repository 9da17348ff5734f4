"""The loader's batches: right chunks, one order for one seed, resumable by a number, clear about bad data."""

import dataclasses
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data_pipeline.build import build_dataset
from data_pipeline.cache import open_cache
from data_pipeline.drift import WORST, newest_data_drift
from data_pipeline.loader import Loader
from data_pipeline.mapping import DEXHIL, DatasetError
from data_pipeline.sampler import sample_indices
from data_pipeline.tensorflow_cpu import tensorflow_datasets
from dexhil.episodes.recorder import list_episodes, read_episode
from dexhil.transforms.normalization import fit_normalization, resize_image

CHUNK = 4


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def load(dataset, cache_dir):
    """Loader with small defaults; keyword arguments override them."""

    def make(*datasets: Path, **changes) -> Loader:
        arguments = {"batch_size": 8, "chunk": CHUNK, "cache_dir": cache_dir, "mapping": DEXHIL} | changes
        return Loader(datasets or (dataset,), **arguments)

    return make


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key in first.keys() - {"images"}:
        np.testing.assert_array_equal(first[key], second[key])
    for camera in first["images"].keys() | second["images"].keys():
        np.testing.assert_array_equal(first["images"][camera], second["images"][camera])


def test_a_batch_is_what_was_recorded(episodes, load):
    """Every sample against the episode it came from: images, state, chunk, padding, mask, instruction."""
    recorded = [read_episode(path).steps for path in list_episodes(episodes)]
    loader = load(batch_size=47)
    batch = loader.batch(0)
    seen = set()
    for i, record in enumerate(loader.index[batch["rows"]]):
        steps, t = recorded[record["episode"]], record["t"]
        seen.add((record["episode"], t))
        for h in range(CHUNK):
            np.testing.assert_array_equal(batch["actions"][i, h], steps[min(t + h, len(steps) - 1)].action)
            assert batch["action_mask"][i, h] == (t + h < len(steps))
        observation = steps[t].observation
        np.testing.assert_array_equal(batch["state"][i], np.concatenate([observation.q_arm, observation.q_hand]))
        assert batch["instruction"][i] == observation.language_instruction
        for camera, image in observation.images.items():
            np.testing.assert_array_equal(batch["images"][camera][i], image)
    assert len(seen) == 47  # one epoch: every step once


def test_batch_shapes_and_dtypes(load):
    batch = load().batch(0)
    shapes = {key: (value.shape, str(value.dtype)) for key, value in batch.items() if key != "images"}
    assert shapes == {
        "state": ((8, 19), "float32"),
        "actions": ((8, CHUNK, 19), "float32"),
        "action_mask": ((8, CHUNK), "bool"),
        "instruction": ((8,), "object"),
        "is_intervention": ((8,), "bool"),
        "weight": ((8,), "float32"),
        "rows": ((8,), "int64"),
    }
    assert {camera: image.shape for camera, image in batch["images"].items()} == {
        "scene": (8, 32, 32, 3),
        "wrist": (8, 32, 32, 3),
    }
    assert (batch["weight"] == 1).all()


def test_iterating_equals_asking_and_resumes_from_a_number(load):
    iterator = load(seed=5).iterate(0)
    for step in range(9):
        assert iterator.step == step
        assert_same(next(iterator), load(seed=5).batch(step))
    resumed = load(seed=5).iterate(iterator.step)
    for _ in range(3):
        assert_same(next(resumed), next(iterator))
    for open_iterator in (iterator, resumed):
        open_iterator.close()
        open_iterator.close()


def test_seeds_differ(load):
    assert (load(seed=1).batch(0)["rows"] != load(seed=2).batch(0)["rows"]).any()


def test_hosts_share_the_batch(load):
    whole = load().batch(3)
    parts = [load(host=host, num_hosts=2).batch(3) for host in range(2)]
    np.testing.assert_array_equal(np.concatenate([part["actions"] for part in parts]), whole["actions"])
    np.testing.assert_array_equal(np.concatenate([part["images"]["wrist"] for part in parts]), whole["images"]["wrist"])
    with pytest.raises(DatasetError, match="batch_size 8 of host 0 of 3"):
        load(num_hosts=3)


def test_without_a_valid_last_action_no_chunk_reads_it(load):
    loader = load(mapping=dataclasses.replace(DEXHIL, last_action_valid=False), batch_size=41)
    assert loader.num_samples == 47 - 6
    actions, mask = loader.chunks(np.arange(41))
    last_of_each = 1000 * np.arange(6) + np.array([9, 5, 12, 7, 6, 8]) - 1
    assert not np.isin(actions[..., 0], last_of_each).any()
    assert mask[:, 0].all()


def test_images_are_resized_as_in_serving(episodes, load):
    loader = load(image_size=20, cameras=["wrist"])
    batch = loader.batch(0)
    record = loader.index[batch["rows"][0]]
    image = read_episode(list_episodes(episodes)[record["episode"]]).steps[record["t"]].observation.images["wrist"]
    np.testing.assert_array_equal(batch["images"]["wrist"][0], resize_image(image, 20))
    assert list(batch["images"]) == ["wrist"]


def test_rounds_aggregate_and_categories_stand_in_the_index(load, dataset, round_dataset):
    loader = load(dataset, round_dataset, batch_size=61, filter="none")
    assert loader.card()["categories"] == {"offline": 47, "autonomous": 10, "intervention": 4}
    assert np.bincount(loader.index["dataset"]).tolist() == [47, 14]
    batch = loader.batch(0)
    assert sorted(batch["actions"][batch["is_intervention"], 0, 0].tolist()) == [10004, 10005, 10006, 10007]
    assert len(loader.all_actions()) == len(loader.all_states()) == loader.num_samples
    np.testing.assert_array_equal(batch["actions"][:, 0], loader.all_actions()[batch["rows"]])
    np.testing.assert_array_equal(batch["state"], loader.all_states()[batch["rows"]])


def test_a_round_without_corrections_adds_no_sample_and_says_nothing_about_drift(
    load, dataset, round_dataset, recipe, recorder, tmp_path
):
    recorder(tmp_path / "episodes", recipe(12, 6, source="online", round=2))
    recorder(tmp_path / "episodes", recipe(13, 6, source="online", round=2, success=0, takeovers=((2, 6),)))
    quiet = build_dataset(tmp_path / "episodes", tmp_path / "round2")
    before = load(dataset, round_dataset, filter="corrections")
    after = load(dataset, round_dataset, quiet, filter="corrections")
    warmup = load(dataset)
    stats = fit_normalization(warmup.all_states(), *warmup.chunks(np.arange(warmup.num_samples)))
    rows = newest_data_drift(before, stats)
    assert len(rows) == WORST
    assert (rows[0]["kind"], rows[0]["name"], rows[0]["outside"]) == ("actions", "fr3_joint1", 1.0)
    assert newest_data_drift(after, stats) == []
    assert after.num_samples == before.num_samples


def episode_ids(loader: Loader) -> set[float]:
    return set((loader.all_actions()[:, 0] // 1000).astype(int).tolist())


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6])
def test_the_held_out_split_is_a_partition_that_new_data_does_not_move(load, dataset, round_dataset, fraction):
    arguments = {"heldout_fraction": fraction}
    train, heldout = (episode_ids(load(split=split, **arguments)) for split in ("train", "heldout"))
    assert train | heldout == set(range(6))
    assert not train & heldout
    more = episode_ids(load(dataset, round_dataset, split="train", **arguments))
    assert not more & heldout


def test_the_split_does_not_follow_the_sampling_seed(load):
    first, second = (load(split="heldout", heldout_fraction=0.4, seed=seed) for seed in (1, 2))
    assert episode_ids(first) == episode_ids(second)


def test_episodes_are_filtered_by_metadata(load):
    assert episode_ids(load(episode_filter={"success": (1,)})) == {0, 1, 2, 3, 4}
    assert episode_ids(load(episode_filter={"task": ("plush",), "success": (1,)})) == {1, 3}
    with pytest.raises(DatasetError, match=r"no episode is left .*0 of 6 pass the filter"):
        load(episode_filter={"task": ("plushie",)})
    with pytest.raises(ValueError, match=r"'sucess' is not known; did you mean 'success'"):
        load(episode_filter={"sucess": (1,)})


def test_the_first_episodes_of_each_task(load):
    assert episode_ids(load(episodes_per_task=2)) == {0, 1, 2, 3}
    with pytest.raises(DatasetError, match="episodes_per_task 4: task 'tissue' has 3"):
        load(episodes_per_task=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "split 'test' is not known"),
        ({"heldout_fraction": 1.0}, "expected 0 <= fraction < 1, got 1.0"),
        ({"chunk": 0}, "chunk: expected at least one action, got 0"),
        ({"action_dim": 7}, "actions have 19 numbers, the config expects 7"),
        ({"robot": "ur5"}, "is of robot 'fr3_dexhand021', expected 'ur5'"),
        ({"cameras": ["scnee"]}, "camera 'scnee' is not known; did you mean 'scene'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(load, change, message):
    with pytest.raises(ValueError, match=message):
        load(**change)


def test_data_sets_of_different_robots_do_not_mix(load, dataset, tmp_path, recipe, recorder):
    recorder(tmp_path / "episodes", recipe(77, 3, robot="ur5"))
    with pytest.raises(DatasetError, match="episode 'ep0-077' is of robot 'ur5', expected 'fr3_dexhand021'"):
        load(dataset, build_dataset(tmp_path / "episodes", tmp_path / "other"))


def test_a_data_set_named_twice_is_refused(load, dataset):
    with pytest.raises(DatasetError, match="is in data set 0 and again in 1"):
        load(dataset, dataset)


def test_missing_data_is_named(load, tmp_path):
    with pytest.raises(DatasetError, match=r"no data set at .*nowhere: the directory does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"features.json is missing"):
        load(tmp_path)


def damaged(dataset: Path, copy: Path, change) -> Path:
    """A copy of a data set whose TFRecord bytes went through `change`."""
    shutil.copytree(dataset, copy)
    file = next(copy.glob("*.tfrecord-*"))
    file.write_bytes(change(file.read_bytes()))
    return copy


def test_damaged_files_are_named(load, dataset, tmp_path):
    def flip(data: bytes) -> bytes:
        return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]

    cases = {
        "flipped": (flip, r"tfrecord-00000-of-00001 is corrupt or truncated after \d whole episodes"),
        "cut": (lambda data: data[:-100], "is corrupt or truncated after 5 whole episodes"),
        "empty": (lambda data: b"", "holds 0 episodes, its dataset_info.json says 6: it is truncated"),
    }
    for name, (change, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            load(damaged(dataset, tmp_path / name, change))
    next((tmp_path / "cut").glob("*.tfrecord-*")).unlink()
    with pytest.raises(DatasetError, match=r"tfrecord-00000-of-00001 is missing though"):
        load(tmp_path / "cut")
    (tmp_path / "empty" / "features.json").write_text("{")
    with pytest.raises(DatasetError, match=r"the metadata of .*empty cannot be read"):
        load(tmp_path / "empty")


@pytest.fixture
def write_plain(write_rlds, tmp_path):
    """Writes one episode of 3 steps of another schema, with changed fields."""

    def write(jpeg: bytes | None = None, **changes) -> Path:
        f = tensorflow_datasets().features
        image = f.Image(shape=(16, 16, 3), encoding_format="jpeg")
        step = {"image": image, "state": f.Tensor(shape=(2,), dtype=np.float32), "text": f.Text()}
        step |= {"action": f.Tensor(shape=(2,), dtype=np.float32), "is_last": f.Scalar(np.bool_)}
        zeros = np.zeros(2, np.float32)
        encoded = jpeg or simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
        steps = [{"image": encoded, "state": zeros, "text": "go", "action": zeros, "is_last": t == 2} for t in range(3)]
        steps[1] |= changes
        return write_rlds(tmp_path / "plain", f.FeaturesDict({"steps": f.Dataset(step)}), [{"steps": steps}])

    return write


PLAIN = dataclasses.replace(
    DEXHIL, cameras={"scene": "image"}, state=("state",), instruction="text", labels=None, metadata={}, robot="cart"
)


def test_nan_is_named_by_episode_and_step(load, write_plain):
    with pytest.raises(DatasetError, match="episode 0 step 1: 'action' has nan at index 1, expected finite"):
        load(write_plain(action=np.array([0, np.nan], np.float32)), mapping=PLAIN)


def test_end_flags_must_mark_the_end(load, write_plain):
    with pytest.raises(DatasetError, match=r"'is_last' is set at steps \[1, 2\], expected only at the last, 2"):
        load(write_plain(is_last=True), mapping=PLAIN)


def test_an_instruction_that_is_no_text_is_named(load, write_plain):
    with pytest.raises(DatasetError, match="episode 0: the instruction is not text"):
        load(write_plain(text=b"\xff\xfe"), mapping=PLAIN)


def test_an_image_that_does_not_decode_is_named(load, write_plain):
    loader = load(write_plain(image=b"\xff\xd8broken"), mapping=PLAIN, batch_size=1)
    message = "episode 0 step 1 camera 'scene': the image does not decode"
    bad = next(k for k in range(3) if sample_indices(0, k, batch_size=1, num_samples=3)[0] == 1)
    with pytest.raises(ValueError, match=message):
        loader.batch(bad)
    good = bad + 1  # the bad step comes again in the next epoch, while iterating
    iterator = loader.iterate(good)
    with pytest.raises(ValueError, match=message):
        list(itertools.islice(iterator, 6))


def test_other_image_formats_are_decoded(load, write_plain):
    import tensorflow as tf

    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    png = tf.io.encode_png(picture).numpy()
    batch = load(write_plain(jpeg=png), mapping=PLAIN, batch_size=3).batch(0)
    np.testing.assert_array_equal(batch["images"]["scene"][0], picture)


def test_the_cache_is_made_once_and_follows_the_data(dataset, tmp_path):
    first = open_cache(dataset, DEXHIL, tmp_path / "cache")
    made = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    second = open_cache(dataset, DEXHIL, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in second.directory.iterdir()} == made
    copied = open_cache(shutil.copytree(dataset, tmp_path / "copy"), DEXHIL, tmp_path / "cache")
    assert copied.content_sha256 == first.content_sha256
    file = next((tmp_path / "copy").glob("*.tfrecord-*"))
    os.utime(file, (1, 1))
    assert open_cache(tmp_path / "copy", DEXHIL, tmp_path / "cache").directory != copied.directory  # perhaps edited
    copied = open_cache(tmp_path / "copy", DEXHIL, tmp_path / "cache")
    (copied.directory / "frames.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"step cache .* is damaged; delete that directory"):
        open_cache(tmp_path / "copy", DEXHIL, tmp_path / "cache")
    changed = open_cache(dataset, dataclasses.replace(DEXHIL, state=("observation/q_arm",)), tmp_path / "cache")
    assert changed.directory != first.directory
    assert changed.state.shape == (47, 7)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]
