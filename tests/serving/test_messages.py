"""Requests: what is sent is what the policy sees; what does not fit is named with the nearest."""

import dataclasses

import numpy as np
import pytest

from dexhil.fit import PROTOCOL, MessageError, PolicyInfo
from dexhil.schema import Observation, SchemaError
from dexhil.serving.codec import pack, unpack
from dexhil.serving.messages import read_actions, read_request, write_request
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


def test_float64_joints_are_read_and_more_cameras_ignored():
    observation = make_observation(3)
    request = make_request(observation) | {"images": {**observation.images, "top": "no picture"}}
    received, options = read_request(request | {"state": np.asarray(request["state"], np.float64)}, INFO)
    assert_same(received, observation)
    assert options == {"seed": 0}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images_are_read_as_openpis_server_does(dtype):
    observation = make_observation(3)
    observation.images["scene"] = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    images = {camera: (image / 255).astype(dtype) for camera, image in observation.images.items()}
    received, _ = read_request(make_request(observation) | {"images": images}, INFO)
    for camera, image in observation.images.items():
        assert received.images[camera].dtype == np.uint8
        np.testing.assert_allclose(received.images[camera].astype(int), image, atol=1 if dtype == np.float16 else 0)


def test_a_float_is_rounded_to_the_nearest_byte():
    images = {camera: np.full((8, 8, 3), 0.999, np.float32) for camera in INFO.cameras}
    received, _ = read_request(make_request(make_observation()) | {"images": images}, INFO)
    assert (received.images["wrist"] == 255).all()


def _image(image: np.ndarray) -> dict:
    return {"images": {**make_observation().images, "wrist": image}}


BAD_REQUESTS = [
    ({"imags": {}}, "request key 'imags' is not known; did you mean 'images'"),
    ({"images": {"scene": make_observation().images["scene"]}}, r"needs \['scene', 'wrist'\], got \['scene'\]; add"),
    ({"images": [1, 2]}, "images: expected a map from camera to image, got list"),
    (
        _image(np.zeros((3, 8, 8), np.uint8)),
        r"uint8 \[H, W, 3\] RGB, got uint8 \[3, 8, 8\]; .*np.moveaxis\(image, 0, -1",
    ),
    (_image(np.full((8, 8, 3), np.nan, np.float32)), r"image_wrist: floats must lie in 0\.\.1, got nan to nan"),
    (
        _image(np.full((8, 8, 3), 200.0)),
        r"floats must lie in 0\.\.1, got 200 to 200; .*image.round\(\).astype\(np.uint8\)",
    ),
    (_image(np.full((8, 8, 3), -1.0)), r"floats must lie in 0\.\.1, got -1 to -1"),
    (_image(np.zeros((0, 8, 3), np.uint8)), r"image_wrist: expected uint8 .*got uint8 \[0, 8, 3\]; .*1 pixel or more"),
    (_image(np.zeros((0, 8, 3))), r"image_wrist: expected uint8 .*got float64 \[0, 8, 3\]"),
    (_image(np.zeros((1, 5000, 3), np.uint8)), r"image_wrist: expected at most 4096 pixels a side, got \[1, 5000, 3\]"),
    (_image(np.zeros((8, 8), np.uint8)), r"got uint8 \[8, 8\]; of a grey image make np.repeat"),
    (_image(np.zeros((8, 8, 1), np.uint8)), r"got uint8 \[8, 8, 1\]; of a grey image make np.repeat"),
    (_image(np.zeros((8, 8, 4), np.uint8)), r"got uint8 \[8, 8, 4\]; leave the transparency out: image\[..., :3\]"),
    (_image(np.zeros((8, 8, 3), np.int64)), r"got int64 \[8, 8, 3\]; of values in 0..255 make image.astype"),
    (_image(np.ones((8, 8, 3), bool)), r"got bool \[8, 8, 3\]; of values in 0..255 make image.astype"),
    ({"images": {**make_observation().images, "wrist": [0, 1]}}, "image_wrist: expected a numpy array.*got list"),
    ({"state": np.full(9, np.nan)}, r"q_arm: non-finite value nan at index \[0\]"),
    ({"state": np.array([0.0] * 8 + [1e300])}, r"q_hand: non-finite value inf at index \[1\]"),
    ({"state": np.zeros(19)}, r"state: expected a float array \[9\], the joints of 'stick', got float64 \[19\]"),
    ({"state": np.zeros(9, int)}, r"state: .*got int64 \[9\]"),
    ({"state": [0.0] * 9}, r"state: .*got \["),
    ({"prompt": 5}, "language_instruction: expected a str, got int 5"),
    ({"seed": -1}, "seed: expected an int from 0 to 4294967295, got -1"),
    ({"seed": 2**32}, "seed: expected an int from 0 to 4294967295, got 4294967296"),
    ({"seed": True}, "seed: expected an int"),
    ({"seed": 1.5}, "seed: .*float.*got 1.5"),
    ({"seed": "x" * 500}, "seed: .*got 'x{79}$"),
    ({"delay": 5}, "delay: expected an int from 0 to 4, got 5"),
    ({"prefix": np.zeros((5, 9))}, r"prefix: expected floats \[1 to 4, 9\], got float64 \[5, 9\]"),
    ({"prefix": np.zeros((0, 9))}, "prefix: expected floats"),
    ({"prefix": np.zeros((2, 8))}, "prefix: expected floats"),
    ({"prefix": np.zeros((2, 9), int)}, "prefix: expected floats"),
    ({"prefix": np.full((2, 9), np.nan)}, "prefix: expected finite floats"),
    ({"prefix": [[0.0] * 9]}, "prefix: expected floats"),
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
    with pytest.raises(MessageError, match=f"the server speaks 1, this client {PROTOCOL}; update one"):
        PolicyInfo.from_message({"protocol": 1, "robot": "stick"})
