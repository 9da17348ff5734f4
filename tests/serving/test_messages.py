"""Requests: what is sent is what the policy sees; what does not fit is named with the nearest."""

import dataclasses

import numpy as np
import pytest

from dexhil.schema import Observation, SchemaError
from dexhil.serving.codec import pack, unpack
from dexhil.serving.messages import MessageError, PolicyInfo, read_actions, read_request, write_request
from dexhil.transforms.normalization import resize_image
from tests.serving.fakes import INFO, make_observation, make_request


def assert_same(left: Observation, right: Observation) -> None:
    assert left.language_instruction == right.language_instruction
    for name in ("q_arm", "q_hand"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), strict=True)
    assert set(left.images) == set(right.images)
    for camera, image in left.images.items():
        np.testing.assert_array_equal(image, right.images[camera], strict=True)


def test_an_observation_survives_the_way():
    observation = make_observation(3)
    received, options = read_request(unpack(pack(write_request(observation, INFO, seed=5))), INFO)
    assert_same(received, observation)
    assert options == {"seed": 5}


def test_large_images_are_resized_once_and_other_cameras_stay_at_home():
    observation = make_observation(3, side=20)
    observation.images["top"] = np.zeros((4, 4, 3), np.uint8)
    request = write_request(observation, INFO)
    assert set(request["images"]) == set(INFO.cameras)
    for camera, image in request["images"].items():
        np.testing.assert_array_equal(image, resize_image(observation.images[camera], INFO.image_size))
        assert resize_image(image, INFO.image_size) is image, "the policy's own resizing changes nothing"


def test_flat_keys_and_float64_joints_are_read_as_well():
    observation = make_observation(3)
    flat = {f"observation/image_{camera}": image for camera, image in observation.images.items()}
    state = np.concatenate([observation.q_arm, observation.q_hand]).astype(np.float64)
    request = {**flat, "observation/state": state, "prompt": observation.language_instruction}
    received, options = read_request(request, INFO)
    assert_same(received, observation)
    assert options == {"seed": 0}


def _image(image: np.ndarray) -> dict:
    return {"images": {**make_observation().images, "wrist": image}}


BAD_REQUESTS = [
    ({"imags": {}}, "request key 'imags' is not known; did you mean 'images'"),
    ({"observation/stat": 0}, "request key 'observation/stat' is not known; did you mean 'state'"),
    ({"images": {"scene": make_observation().images["scene"]}}, r"needs \['scene', 'wrist'\], got \['scene'\]; add"),
    ({"images": {**make_observation().images, "wirst": 0}}, "camera 'wirst' is not known; did you mean 'wrist'"),
    ({"images": [1, 2]}, "images: expected a map from camera to image, got list"),
    (_image(np.zeros((3, 8, 8), np.uint8)), r"image_wrist: expected shape \[any, any, 3\], got \[3, 8, 8\]"),
    (_image(np.full((8, 8, 3), np.nan, np.float32)), "image_wrist: expected dtype uint8, got float32"),
    (_image(np.zeros((0, 8, 3), np.uint8)), r"image_wrist: expected 1 to 4096 pixels a side, got \(0, 8\)"),
    (_image(np.zeros((1, 5000, 3), np.uint8)), r"image_wrist: expected 1 to 4096 pixels a side, got \(1, 5000\)"),
    ({"images": {**make_observation().images, "wrist": [0, 1]}}, "image_wrist: expected a numpy array.*got list"),
    ({"state": np.full(9, np.nan)}, r"q_arm: non-finite value nan at index \[0\]"),
    ({"state": np.array([0.0] * 8 + [1e300])}, r"q_hand: non-finite value inf at index \[1\]"),
    ({"state": np.zeros(19)}, r"state: expected a float array \[9\], the joints of 'stick', got float64 \[19\]"),
    ({"state": np.zeros(9, int)}, r"state: .*got int64 \[9\]"),
    ({"state": [0.0] * 9}, "state: .*got list"),
    ({"observation/state": np.zeros(9)}, "state both flat and not"),
    ({"observation/image_scene": 0}, "images both in a map and as observation/image_"),
    ({"prompt": 5}, "language_instruction: expected a str, got int 5"),
    ({"seed": -1}, "seed: expected an int from 0 to 4294967295, got -1"),
    ({"seed": 2**32}, "seed: expected an int from 0 to 4294967295, got 4294967296"),
    ({"seed": True}, "seed: expected an int"),
    ({"seed": 1.5}, "seed: .*float.*got 1.5"),
    ({"seed": "x" * 500}, "seed: .*got 'x{79}$"),
    ({"delay": 5}, "delay: expected an int from 0 to 4, got 5"),
    ({"prefix": np.zeros((5, 9))}, r"prefix: expected finite floats \[1 to 4, 9\], got float64 \[5, 9\]"),
    ({"prefix": np.zeros((0, 9))}, "prefix: expected finite floats"),
    ({"prefix": np.zeros((2, 8))}, "prefix: expected finite floats"),
    ({"prefix": np.zeros((2, 9), int)}, "prefix: expected finite floats"),
    ({"prefix": np.full((2, 9), np.nan)}, "prefix: expected finite floats"),
    ({"prefix": [[0.0] * 9]}, "prefix: expected finite floats"),
    ({5: 0}, "expected a map with text keys"),
]


@pytest.mark.parametrize(("change", "message"), BAD_REQUESTS, ids=[message[:40] for _, message in BAD_REQUESTS])
def test_a_request_that_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        read_request(make_request(make_observation()) | change, INFO)


@pytest.mark.parametrize("message", [None, [], "text", 7, np.zeros(3)])
def test_what_is_no_map_is_refused(message):
    with pytest.raises(MessageError, match="request: expected a map with text keys"):
        read_request(message, INFO)


def test_missing_keys_are_listed():
    with pytest.raises(MessageError, match=r"got \['state'\]; add \['images', 'prompt'\]"):
        read_request({"state": np.zeros(9)}, INFO)


def test_a_mangled_request_is_read_or_refused_and_nothing_else():
    rng = np.random.default_rng(0)
    request = make_request(make_observation(), seed=3, prefix=np.zeros((2, 9), np.float32), delay=1)
    good, refused = pack(request), 0
    for _ in range(3000):
        mangled = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            mangled[place] = rng.integers(256)
        try:
            read_request(unpack(bytes(mangled)), INFO)
        except ValueError:
            refused += 1
    assert refused > 500


def test_a_bad_observation_is_refused_before_it_is_sent():
    observation = make_observation()
    with pytest.raises(SchemaError, match="q_arm: non-finite"):
        write_request(dataclasses.replace(observation, q_arm=np.full(7, np.nan, np.float32)), INFO)
    with pytest.raises(MessageError, match=r"the policy needs \['scene', 'wrist'\]"):
        write_request(dataclasses.replace(observation, images={}), INFO)


def test_actions_come_back_writable_and_checked():
    actions = np.ones((4, 9), np.float32)
    back = read_actions(unpack(pack({"actions": actions})), INFO)
    back[0] = 2
    for bad in ({}, {"actions": actions[:3]}, {"actions": actions.astype(float)}, [actions], None):
        with pytest.raises(MessageError, match=r"actions: expected float32 \(4, 9\) from the server, got"):
            read_actions(bad, INFO)
    with pytest.raises(MessageError, match="non-finite value from the server; do not execute"):
        read_actions({"actions": np.full((4, 9), np.nan, np.float32)}, INFO)


def test_the_facts_of_a_policy_survive_and_another_server_is_named():
    assert PolicyInfo.from_message(unpack(pack(INFO.to_message()))) == INFO
    with pytest.raises(MessageError, match=r"metadata: expected .*got \{'a': 1\}; is this a DexHiL policy server"):
        PolicyInfo.from_message({"a": 1})
    with pytest.raises(MessageError, match="the server speaks 2, this client 1"):
        PolicyInfo.from_message(INFO.to_message() | {"protocol": 2})
