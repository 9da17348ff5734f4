"""Our client: as good as a policy in the process, through restarts; every way it cannot be ends in a clear error."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from dexhil.config import ConfigError
from dexhil.fit import Interface, MessageError
from dexhil.schema import SchemaError
from dexhil.serving.client import PolicyClient, PolicyServerError
from dexhil.serving.codec import pack
from dexhil.serving.keys import VARIABLE, read_key
from tests.serving.fakes import INFO, KnownPolicy, known_answer, make_observation, running, wait_for

KEY = "a-key-of-the-tests-0123"


def assert_acts(client: PolicyClient, which: int = 0, seed: int = 0) -> None:
    observation = make_observation(which)
    chunk = client.infer(observation, seed=seed)
    np.testing.assert_array_equal(chunk.actions, known_answer(observation, seed))
    assert chunk.timestamp == observation.timestamp


def test_it_gives_what_the_policy_gives():
    with running() as server, PolicyClient(server.uri) as client:
        assert client.info == INFO
        assert client.checkpoint_id == "fake/7"
        for which in range(3):
            assert_acts(client, which, seed=which + 2**31)


def test_without_a_seed_the_policy_takes_its_own():
    with running() as server, PolicyClient(server.uri) as client:
        np.testing.assert_array_equal(client.infer(make_observation()).actions, known_answer(make_observation(), 0))


def test_real_time_chunking_goes_through():
    prefix = np.arange(18, dtype=np.float32).reshape(2, 9)
    expected = np.concatenate([prefix[:1], known_answer(make_observation(), 5)[1:]])
    with running() as server, PolicyClient(server.uri) as client:
        chunk = client.infer(make_observation(), seed=5, prefix=prefix, delay=1)
        np.testing.assert_array_equal(chunk.actions, expected)
        with pytest.raises(PolicyServerError, match="delay: expected an int from 0 to 4, got 5"):
            client.infer(make_observation(), delay=5)


def test_the_observation_is_checked_before_the_server_hears_of_it():
    policy = KnownPolicy()
    with running(policy) as server, PolicyClient(server.uri) as client:
        observation = make_observation()
        observation.q_arm[2] = np.nan
        with pytest.raises(SchemaError, match="q_arm: non-finite value nan"):
            client.infer(observation)
        assert server.stats.bad_requests == 0
        assert_acts(client)


def failing_once() -> Callable[[object], None]:
    failures = iter([RuntimeError("the arm is upside down")])

    def before(_: object) -> None:
        for error in failures:
            raise error

    return before


def test_an_error_of_the_server_is_raised_and_the_next_call_works():
    with running(KnownPolicy(failing_once())) as server, PolicyClient(server.uri) as client:
        with pytest.raises(PolicyServerError, match=r"the policy failed, RuntimeError: the arm is upside down"):
            client.infer(make_observation())
        assert_acts(client)


def test_it_rides_out_a_restart_of_the_server():
    with running() as server:
        port = int(server.uri.rpartition(":")[2])
        client = PolicyClient(server.uri)
        assert_acts(client)
    restarted: list[contextlib.AbstractContextManager] = []

    def restart() -> None:
        time.sleep(0.2)
        restarted.append(running(port=port))
        restarted[0].__enter__()

    thread = threading.Thread(target=restart)
    thread.start()
    with client:
        assert_acts(client, which=1)
    thread.join()
    restarted[0].__exit__(None, None, None)


def test_a_server_that_comes_back_with_another_policy_is_refused():
    with running() as server, PolicyClient(server.uri) as client:
        port = int(server.uri.rpartition(":")[2])
        server.stop()
        server.join()
        other = {**INFO.to_message(), "checkpoint": "other/9"}
        with running(info=type(INFO).from_message(other), port=port):
            for _ in range(2):
                with pytest.raises(PolicyServerError, match=r"serves other/9 of 'stick' now .*, not fake/7"):
                    client.infer(make_observation())


def test_nobody_there_is_an_error_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"ws://127.0.0.1:{port}: .*refused.*is the policy server running"):
        PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=0.2)


def test_a_server_that_stops_for_good_is_an_error_after_the_timeout():
    with running() as server:
        client = PolicyClient(server.uri, timeout_s=0.3)
    with pytest.raises(ConnectionError, match="is the policy server running"):
        client.infer(make_observation())


def test_a_late_answer_is_an_error_and_never_taken_for_the_next():
    release = threading.Event()
    policy = KnownPolicy(lambda observation: release.wait(5))
    with running(policy) as server, PolicyClient(server.uri, timeout_s=0.2) as client:
        with pytest.raises(TimeoutError, match=r"no answer within 0.2 s; is the server overloaded"):
            client.infer(make_observation(1), seed=1)
        release.set()
        assert_acts(client, which=2, seed=2)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no limit for writes")
def test_a_server_that_stops_reading_does_not_hold_a_robot():
    """A frozen process: the kernel takes what fits into its buffers, then nothing more."""
    release = threading.Event()

    def freeze(connection: ServerConnection) -> None:
        connection.recv_flow_control.acquire()
        connection.send(pack(INFO.to_message() | {"image_size": 2048}))
        release.wait(30)
        connection.recv_flow_control.release()

    with bare_server(freeze, max_size=None) as uri:
        client = PolicyClient(uri, timeout_s=0.3)
        with pytest.raises(ConnectionError, match="is the policy server running"):
            client.infer(make_observation(side=2048))
        assert not release.is_set()
        release.set()


@contextlib.contextmanager
def bare_server(handler: Callable[[ServerConnection], None], **options) -> Iterator[str]:
    """A websocket server that is none of ours."""
    with serve(handler, "127.0.0.1", 0, compression=None, close_timeout=0.2, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("greeting", "error", "message"),
    [
        (pack({"robot": "aloha"}), MessageError, "metadata: expected .*is this a DexHiL policy server"),
        ("hello", MessageError, "metadata: expected .*got hello"),
        (b"\xc1", ValueError, "not msgpack"),
        (pack(INFO.to_message() | {"protocol": 9}), MessageError, "the server speaks 9, this client 2"),
    ],
)
def test_a_server_that_is_none_of_ours_is_named(greeting, error, message):
    with bare_server(lambda connection: connection.send(greeting)) as uri, pytest.raises(error, match=message):
        PolicyClient(uri, timeout_s=5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (pack({"actions": np.zeros((4, 9))}), r"expected float32 \(4, 9\) from the server, got float64"),
        (pack({"actions": np.full((4, 9), np.inf, np.float32)}), "non-finite value from the server"),
        (pack([]), "actions: expected"),
        (b"\xc1", "not msgpack"),
    ],
)
def test_an_answer_that_does_not_fit_is_never_executed(answer, message):
    def handler(connection: ServerConnection) -> None:
        connection.send(pack(INFO.to_message()))
        connection.recv()
        connection.send(answer)

    with bare_server(handler) as uri, PolicyClient(uri) as client, pytest.raises(ValueError, match=message):
        client.infer(make_observation())


def test_the_wrong_key_is_named_at_once():
    with running(key=KEY) as server:
        with PolicyClient(server.uri, key=KEY) as client:
            assert_acts(client)
        for key in ("", KEY + "x"):
            with pytest.raises(PermissionError, match=r"HTTP 401, missing or wrong key.*variable DEXHIL_API_KEY"):
                PolicyClient(server.uri, key=key, timeout_s=60)


def test_the_key_stays_out_of_logs(caplog):
    with caplog.at_level(logging.DEBUG), running(key=KEY) as server, PolicyClient(server.uri, key=KEY) as client:
        assert_acts(client)
    assert KEY not in caplog.text


def test_a_full_server_is_waited_for_and_then_named():
    with running(clients=1) as server, PolicyClient(server.uri) as first:
        with pytest.raises(ConnectionError, match="HTTP 503, 1 clients are connected, which is the limit"):
            PolicyClient(server.uri, timeout_s=0.3)
        leaving = threading.Timer(0.2, first.close)
        leaving.start()
        with PolicyClient(server.uri, timeout_s=5) as second:
            assert_acts(second)
        leaving.join()


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1", "127.0.0.1:8000", "runs/sim", "ws://127.0.0.1:99999", "ws://127.0.0.1:port"]
)
def test_an_address_that_is_none_is_named(uri):
    with pytest.raises(ValueError, match=rf"{uri}: expected the address of a policy server, such as ws://"):
        PolicyClient(uri)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_key() == ""
    monkeypatch.setenv(VARIABLE, KEY)
    assert read_key() == KEY
    (tmp_path / "key").write_text("another-key-in-a-file\n")
    assert read_key(tmp_path / "key") == "another-key-in-a-file"


@pytest.mark.parametrize("key", ["", "short", "with spaces in the middle", "ümlaut-ümlaut-ümlaut"])
def test_a_weak_or_broken_key_is_refused_without_showing_it(key: str, tmp_path: Path):
    (tmp_path / "key").write_text(key)
    with pytest.raises(ValueError, match=r"at least 16 printable ASCII characters.*openssl rand") as refused:
        read_key(tmp_path / "key")
    assert not key or key not in str(refused.value)


def test_a_policy_that_does_not_fit_the_rig_is_refused_at_once():
    rig = Interface("stick", INFO.joint_names, INFO.cameras, 0, 20.0, 9, 9)
    with running() as server:
        PolicyClient(server.uri, rig=rig).close()
        with pytest.raises(ConfigError, match="the checkpoint acts at 20 Hz, the rig at 10 Hz"):
            PolicyClient(server.uri, rig=dataclasses.replace(rig, control_hz=10.0))
        wait_for(lambda: server.stats.clients == 0)


SERVER = """
import sys, time
from tests.serving.fakes import running
with running(port=int(sys.argv[1])) as server:
    print(server.uri, flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def server_process(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, which may be killed."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_control_loop_is_told_at_once_that_the_server_was_killed_and_goes_on_when_it_is_back():
    with server_process() as (process, uri):
        client = PolicyClient(uri, timeout_s=0.4)
        assert_acts(client, which=1)
        process.kill()
        process.wait()
        for _ in range(2):
            with pytest.raises(ConnectionError, match="is the policy server running"):
                client.infer(make_observation())
    with server_process(int(uri.rpartition(":")[2])), client:
        assert_acts(client, which=2)


def test_a_server_that_is_stopped_in_the_middle_holds_no_call(monkeypatch):
    """A frozen process answers nothing, not even a close: the call ends with its own time limit."""
    monkeypatch.setattr("dexhil.serving.client.CLOSE_S", 600.0)
    with server_process() as (process, uri):
        client = PolicyClient(uri, timeout_s=0.3)
        process.send_signal(signal.SIGSTOP)
        found: list[Exception] = []

        def ask() -> None:
            try:
                client.infer(make_observation())
            except TimeoutError as error:
                found.append(error)

        call = threading.Thread(target=ask)
        call.start()
        call.join(20)
        held = call.is_alive()
        process.send_signal(signal.SIGCONT)
        call.join()
        assert not held, "the call waits for a server that may be gone"
        assert "no answer within 0.3 s" in str(found[0])
        client.close()
        assert_acts(client)
        client.close()
