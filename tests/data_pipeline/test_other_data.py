"""Other people's data sets: what differs from ours is read, or refused with the field's name and a way out."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from data_pipeline.build import build_dataset
from data_pipeline.loader import Loader
from data_pipeline.mapping import DEXHIL, DatasetError, Mapping
from data_pipeline.tensorflow_cpu import tensorflow, tensorflow_datasets

PICTURE = np.full((16, 16, 3), 120, np.uint8)
JPEG = simplejpeg.encode_jpeg(PICTURE)


def vector(width: int, **options: Any) -> Any:
    return tensorflow_datasets().features.Tensor(shape=(width,), dtype=np.float32, **options)


def make_steps(number: int, length: int = 5, **changes: Any) -> list[dict[str, Any]]:
    """Steps of one episode; action[0] of step t is `100 * number + t`."""
    return [
        {
            "image": JPEG,
            "state": np.array([number, t], np.float32),
            "text": "move the block",
            "action": np.array([100 * number + t, 0], np.float32),
            "is_last": t == length - 1,
        }
        | changes
        for t in range(length)
    ]


@pytest.fixture
def load(write_rlds, tmp_path) -> Callable[..., Loader]:
    """A loader of episodes (lists of steps) in a plain layout; `fields` change it, None removes a field."""

    def make(
        episodes: list[list[dict[str, Any]]],
        fields: dict[str, Any] | None = None,
        facts: list[dict[str, Any]] | None = None,
        fact_fields: dict[str, Any] | None = None,
        expected: dict[str, Any] | None = None,
        **mapping: Any,
    ) -> Loader:
        f = tensorflow_datasets().features
        image = f.Image(shape=(16, 16, 3), encoding_format="jpeg")
        step = {
            "image": image,
            "state": vector(2),
            "text": f.Text(),
            "action": vector(2),
            "is_last": f.Scalar(np.bool_),
        }
        step = {name: feature for name, feature in (step | (fields or {})).items() if feature is not None}
        features: dict[str, Any] = {"steps": f.Dataset(step)}
        examples: list[dict[str, Any]] = [
            {"steps": [{name: value for name, value in one.items() if name in step} for one in steps]}
            for steps in episodes
        ]
        if facts is not None:
            features["facts"] = fact_fields
            examples = [example | {"facts": told} for example, told in zip(examples, facts, strict=True)]
        data = write_rlds(tmp_path / "plain", f.FeaturesDict(features), examples)
        settings = {
            "name": "mine", "cameras": {"scene": "image"}, "state": ("state",), "action": ("action",),
            "action_meaning": "deltas", "instruction": "text", "robot": "cart",
        }  # fmt: skip
        arguments = {"batch_size": 4, "chunk": 3, "cache_dir": tmp_path / "cache"} | (expected or {})
        return Loader([data], Mapping(**(settings | mapping)), **arguments)

    return make


@pytest.mark.parametrize(
    ("shape", "dtype"), [((16, 16, 1), np.uint16), ((16, 16, 1), np.uint8), ((16, 16, 3), np.uint16)]
)
def test_what_is_no_colour_picture_of_8_bits_is_no_camera(load, shape, dtype):
    depth = tensorflow_datasets().features.Image(shape=shape, dtype=dtype, encoding_format="png")
    episodes = [make_steps(0, depth=np.zeros(shape, dtype))]
    with pytest.raises(DatasetError, match=r"camera 'depth': field 'depth' .*expected an 8-bit colour picture; name"):
        load(episodes, {"depth": depth}, cameras={"scene": "image", "depth": "depth"})


def test_a_picture_of_16_bits_is_named_when_it_is_read(load):
    png = tensorflow().io.encode_png(np.full((16, 16, 3), 30_000, np.uint16)).numpy()
    loader = load([make_steps(0, image=png)])
    with pytest.raises(DatasetError, match=r"does not decode .it has 16 bits per value, expected an 8-bit"):
        loader.batch(0)


def test_a_last_action_that_is_not_valid_is_not_looked_at(load):
    episodes = [make_steps(number) for number in range(3)]
    for steps in episodes:
        steps[-1]["action"] = np.full(2, np.nan, np.float32)
    loader = load(episodes, last_action_valid=False)
    assert loader.num_samples == 3 * 4
    assert np.isfinite(loader.chunks(np.arange(12))[0]).all()


def test_every_action_that_is_looked_at_is_finite(load):
    steps = make_steps(0)
    steps[3]["action"] = np.array([0, np.inf], np.float32)
    with pytest.raises(DatasetError, match="episode 0 step 3: 'action' has inf at index 1"):
        load([steps], last_action_valid=False)


def test_the_last_state_is_looked_at_in_any_case(load):
    steps = make_steps(0)
    steps[-1]["state"] = np.array([np.nan, 0], np.float32)
    with pytest.raises(DatasetError, match="episode 0 step 4: 'state' has nan at index 0"):
        load([steps], last_action_valid=False)


def test_a_copy_of_an_episode_is_left_out_with_a_word(load):
    episodes = [make_steps(number) for number in (0, 1, 2, 3, 1)]
    with pytest.warns(UserWarning, match="episode 4 is a copy of episode 1: it is left out"):
        loader = load(episodes)
    assert loader.num_samples == 4 * 5


def test_a_copy_under_another_id_is_left_out(load):
    text = tensorflow_datasets().features.Text()
    names = [{"name": "a"}, {"name": "b"}]
    with pytest.warns(UserWarning, match="episode 1 is a copy of episode 0"):
        loader = load(
            [make_steps(0), make_steps(0)], {}, names, {"name": text}, metadata={"episode_id": "facts/name"}
        )  # fmt: skip
    assert loader.num_samples == 5


def test_two_episodes_of_one_id_are_named_by_number(load):
    text = tensorflow_datasets().features.Text()
    with pytest.raises(DatasetError, match=r"episode 'a' is in data set 0 and again in 0, as number 0 and 2: .* id of"):
        load(
            [make_steps(n) for n in range(3)],
            {},
            [{"name": "a"}, {"name": "b"}, {"name": "a"}],
            {"name": text},
            metadata={"episode_id": "facts/name"},
        )


def test_an_episode_without_steps_is_left_out_with_a_word(load, tmp_path):
    with pytest.warns(UserWarning, match="episode 1 has no steps: it is left out"):
        loader = load([make_steps(0), [], make_steps(2)])
    assert loader.all_actions()[:, 0].tolist() == [0, 1, 2, 3, 4, 200, 201, 202, 203, 204]
    with pytest.warns(UserWarning, match="episode 1 has no steps"):  # the cache knows it too
        Loader([tmp_path / "plain"], loader.mapping, batch_size=4, chunk=3, cache_dir=tmp_path / "cache")


def test_data_without_any_step_are_refused(load):
    with pytest.raises(DatasetError, match=r"plain holds no step: .*episode 0 has no steps.*episode 1 has no steps"):
        load([[], []])


def test_no_data_set_at_all_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"data\.paths names no data set"):
        Loader([], DEXHIL, batch_size=4, chunk=3, cache_dir=tmp_path)


@pytest.mark.parametrize("encoding", ["zlib", "bytes"])
def test_packed_numbers_are_read(load, encoding):
    loader = load([make_steps(3)], {name: vector(2, encoding=encoding) for name in ("state", "action")})
    assert loader.all_states().tolist() == [[3, t] for t in range(5)]
    assert loader.all_actions()[:, 0].tolist() == [300 + t for t in range(5)]


def codes(text: str, dtype: type, width: int = 24) -> np.ndarray:
    numbers = list(text.encode()) if dtype is np.uint8 else [ord(character) for character in text]
    return np.array(numbers + [0] * (width - len(numbers)), dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.uint8])
def test_instructions_as_code_points_are_read(load, dtype):
    feature = tensorflow_datasets().features.Tensor(shape=(24,), dtype=dtype)
    episodes = [make_steps(0, text=codes("Öffne die Tür", dtype)), make_steps(1, text=codes(" go", dtype))]
    loader = load(episodes, {"text": feature})
    assert loader.instructions() == {"Öffne die Tür", " go"}
    batch = loader.batch(0)
    assert [text == " go" for text in batch["instruction"]] == (batch["state"][:, 0] == 1).tolist()


@pytest.mark.parametrize("numbers", [[101, 2, 7, 0], [-5, 3, 0, 0], [2**31 - 1, 0, 0, 0]])
def test_numbers_that_are_no_text_are_refused(load, numbers):
    feature = tensorflow_datasets().features.Tensor(shape=(4,), dtype=np.int32)
    with pytest.raises(DatasetError, match=r"episode 0: the instruction is not text .*expected UTF-8 or code points"):
        load([make_steps(0, text=np.array(numbers, np.int32))], {"text": feature})


@pytest.mark.parametrize(("shape", "dtype"), [((), np.int32), ((4,), np.float32), ((2, 4), np.int32)])
def test_a_field_that_cannot_hold_text_is_named(load, shape, dtype):
    feature = tensorflow_datasets().features.Tensor(shape=shape, dtype=dtype)
    with pytest.raises(DatasetError, match=r"instruction field 'text' .*expected a string or a row of code points"):
        load([make_steps(0, text=np.zeros(shape, dtype))], {"text": feature})


def test_an_instruction_of_the_episode_holds_for_all_its_steps(load):
    text = tensorflow_datasets().features.Text()
    facts = [{"task": "move the block"}, {"task": "lift it"}]
    loader = load(
        [make_steps(0), make_steps(1)], {"text": None}, facts, {"task": text}, instruction="facts/task"
    )  # fmt: skip
    batch = loader.batch(0)
    assert loader.instructions() == {"move the block", "lift it"}
    assert [text == "lift it" for text in batch["instruction"]] == (batch["state"][:, 0] == 1).tolist()


@pytest.fixture(scope="module")
def rates(tmp_path_factory, recipe, recorder) -> dict[int, Path]:
    """Our data sets at 10 and at 20 Hz."""
    root = tmp_path_factory.mktemp("rates")
    for hz in (10, 20):
        recorder(root / f"episodes{hz}", recipe(hz, 6, control_hz=float(hz)))
    return {hz: build_dataset(root / f"episodes{hz}", root / f"rlds{hz}") for hz in (10, 20)}


def ours(paths: list[Path], cache: Path, **expected: Any) -> Loader:
    return Loader(paths, DEXHIL, batch_size=1, chunk=3, cache_dir=cache, **expected)


def test_data_of_two_rates_do_not_mix(rates, tmp_path):
    with pytest.raises(DatasetError, match=r"rlds20 has 20 Hz, data set .*rlds10 has 10 Hz; .*train on data of one"):
        ours([rates[10], rates[20]], tmp_path, control_hz=10.0)
    with pytest.raises(DatasetError, match=r"the config has 20 Hz, data set .*rlds10 has 10 Hz"):
        ours([rates[10]], tmp_path, control_hz=20.0)
    assert ours([rates[10]], tmp_path, control_hz=10.0).control_hz == 10.0
    assert ours([rates[20]], tmp_path).card()["control_hz"] == 20.0
    assert ours([rates[20]], tmp_path, control_hz=19.9).control_hz == 19.9
    with pytest.raises(DatasetError, match=r"the config has 18\.5 Hz, data set .*rlds20 has 20 Hz"):
        ours([rates[20]], tmp_path, control_hz=18.5)


def copied(dataset: Path, to: Path, card: str | None) -> Path:
    shutil.copytree(dataset, to)
    (to / "card.json").unlink() if card is None else (to / "card.json").write_text(card)
    return to


def test_without_a_card_the_timestamps_or_the_mapping_tell_the_rate(rates, tmp_path, load):
    alone = copied(rates[10], tmp_path / "alone", None)
    assert ours([alone], tmp_path / "c").control_hz == pytest.approx(10)
    assert ours([alone], tmp_path / "c", control_hz=10.0).control_hz == 10.0
    with pytest.raises(DatasetError, match="the config has 20 Hz"):
        ours([alone], tmp_path / "c", control_hz=20.0)
    with pytest.raises(DatasetError, match=r"the config has 20 Hz, data set .*plain has 5 Hz"):
        load([make_steps(0)], control_hz=5.0, expected={"control_hz": 20.0})


def test_where_nothing_tells_the_rate_the_config_does(load):
    assert load([make_steps(0)], expected={"control_hz": 7.0}).control_hz == 7.0


@pytest.mark.parametrize(("hz", "said"), [(10, 20.0), (10, 5.0)])
def test_a_card_that_the_timestamps_contradict_is_refused(rates, tmp_path, hz, said):
    wrong = copied(rates[hz], tmp_path / "wrong", json.dumps({"control_hz": said}))
    with pytest.raises(DatasetError, match=rf"0\.1 s apart \(10 Hz\), its card or mapping says {said:g} Hz"):
        ours([wrong], tmp_path / "cache")


@pytest.mark.parametrize("card", ["{", "[]", '{"control_hz": "fast"}'])
def test_a_damaged_card_is_named(rates, tmp_path, card):
    with pytest.raises(DatasetError, match=r"card\.json is damaged"):
        ours([copied(rates[10], tmp_path / "data", card)], tmp_path / "cache")


def test_time_that_stands_still_is_named(load):
    seconds = tensorflow_datasets().features.Scalar(np.float64)
    episodes = [make_steps(0)]
    for step, time in zip(episodes[0], (0.0, 0.1, 0.2, 0.2, 0.3), strict=True):
        step["time"] = time
    with pytest.raises(DatasetError, match=r"episode 0 step 3: 'time' is .* s after .* s, expected seconds that grow"):
        load(episodes, {"time": seconds}, timestamp="time")


@pytest.mark.parametrize("name", ["action.npy", "gap.npy", "frames.npy", "cache.json", "frames.bin"])
@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"", None])
def test_a_damaged_cache_says_what_to_delete(rates, tmp_path, name, change):
    ours([rates[10]], tmp_path)
    file = next(tmp_path.glob(f"*/{name}"))
    file.unlink() if change is None else file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"step cache .* is damaged; delete that directory"):
        ours([rates[10]], tmp_path)


def test_ordinary_data_warn_of_nothing(rates, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours([rates[10]], tmp_path)
