"""openpi's own client, as published, drives our server. It runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dexhil.serving import codec
from tests.serving.fakes import INFO, KnownPolicy, known_answer, make_observation, make_request, running

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-of-the-tests-0123"

CLIENT = """
import json, sys, traceback
import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from tests.serving.fakes import make_observation, make_request

uri, key, folder = sys.argv[1:]
host, _, port = uri.rpartition(":")
found = {}
try:
    WebsocketClientPolicy(host, int(port))
except Exception as error:
    found["without key"] = str(error)
client = WebsocketClientPolicy(host, int(port), api_key=key)
found["metadata"] = client.get_server_metadata()
answers = []
for which in range(3):
    answers.append(client.infer(make_request(make_observation(which), seed=which)))
    client.reset()
found["timing"] = answers[-1]["server_timing"]
actions = np.stack([answer["actions"] for answer in answers])
np.save(f"{folder}/actions.npy", actions)
try:
    client.infer({"images": {}, "stat": np.zeros(9)})
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
again = WebsocketClientPolicy(host, int(port), api_key=key)
found["after the error"] = bool((again.infer(make_request(make_observation(1), seed=1))["actions"] == actions[1]).all())
message = make_request(make_observation(5), seed=5)
message |= {"scalar": np.float32(0.5), "more": [np.arange(3), (1, None, "x")]}
with open(f"{folder}/packed", "wb") as file:
    file.write(msgpack_numpy.packb(message))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def driven(tmp_path_factory) -> tuple[dict, Path]:
    """What the client found, and the folder with the arrays that it was answered."""
    if importlib.util.find_spec("openpi_client") is None:
        pytest.skip("openpi-client is not installed: `make extras` installs requirements-interop.txt")
    folder = tmp_path_factory.mktemp("interop")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    with running(KnownPolicy(), key=KEY) as server:
        command = [sys.executable, "-c", CLIENT, server.uri, KEY, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def test_it_reads_the_metadata(driven):
    assert driven[0]["metadata"] == json.loads(json.dumps(INFO.to_message()))


def test_it_is_answered_with_the_policys_arrays_and_timings(driven):
    expected = np.stack([known_answer(make_observation(which), which) for which in range(3)])
    actions = np.load(driven[1] / "actions.npy")
    assert actions.dtype == expected.dtype
    np.testing.assert_array_equal(actions, expected)
    assert set(driven[0]["timing"]) == {"infer_ms", "prev_total_ms"}


def test_it_shows_our_error_and_a_new_client_goes_on(driven):
    assert driven[0]["error"].startswith("RuntimeError: Error in inference server:\n")
    assert "request key 'stat' is not known; did you mean 'state'" in driven[0]["error"]
    assert driven[0]["after the error"]


def test_it_is_turned_away_without_the_key(driven):
    assert "401" in driven[0]["without key"]


def test_our_codec_writes_its_bytes(driven):
    more = {"scalar": np.float32(0.5), "more": [np.arange(3), (1, None, "x")]}
    ours = codec.pack({**make_request(make_observation(5), seed=5), **more})
    assert ours == (driven[1] / "packed").read_bytes()
