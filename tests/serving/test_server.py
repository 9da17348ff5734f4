"""What clients can do wrong: each gets the right answer, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from dexhil.serving.client import PolicyClient
from dexhil.serving.codec import pack, unpack
from dexhil.serving.server import PolicyServer
from tests.serving.fakes import (
    INFO,
    KnownPolicy,
    Running,
    known_answer,
    make_observation,
    make_request,
    running,
    wait_for,
)

KEY = "a-key-of-the-tests-0123"


@contextlib.contextmanager
def raw(uri: str, **options: Any) -> Iterator[Connection]:
    """A websocket that has read the greeting."""
    with connect(uri, compression=None, proxy=None, max_size=None, close_timeout=1, **options) as connection:
        connection.recv(timeout=5)
        yield connection


def ask(connection: Connection, seed: int = 0, which: int = 0) -> None:
    connection.send(pack(make_request(make_observation(which), seed=seed)))


def assert_answered(connection: Connection, seed: int = 0, which: int = 0) -> dict[str, float]:
    answer = unpack(connection.recv(timeout=5, decode=False))
    np.testing.assert_array_equal(answer["actions"], known_answer(make_observation(which), seed))
    return answer["server_timing"]


def assert_refused(connection: Connection, text: str) -> None:
    """An error text, then close code 1011."""
    message = connection.recv(timeout=5)
    assert isinstance(message, str)
    assert text in message
    with pytest.raises(ConnectionClosedError) as closed:
        connection.recv(timeout=5)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1011


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def other(server: Running) -> Iterator[PolicyClient]:
    """A client that was there before the fault and must be answered after it."""
    with PolicyClient(server.uri) as client:
        yield client
        np.testing.assert_array_equal(
            client.infer(make_observation(9), seed=4).actions, known_answer(make_observation(9), 4)
        )


def test_a_client_is_greeted_and_answered_with_timings(server: Running):
    with connect(server.uri, compression=None, proxy=None) as connection:
        assert unpack(connection.recv(timeout=5, decode=False)) == {
            **INFO.to_message(),
            "cameras": ["scene", "wrist"],
            "joint_names": [f"joint{i}" for i in range(9)],
        }
        ask(connection, seed=2, which=3)
        assert assert_answered(connection, seed=2, which=3)["infer_ms"] > 0


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"\xc1 not msgpack", "not msgpack"),
        (b"", "message of 0 bytes"),
        ("text", "expected a binary message in msgpack, got the text 'text'"),
        (pack([1, 2]), "expected a map with text keys"),
        (pack(make_request(make_observation()) | {"promt": "x"}), "did you mean 'prompt'"),
        (pack(make_request(make_observation()) | {"state": np.zeros(3)}), "state: expected a float array [9]"),
        (pack(make_request(make_observation()) | {"state": np.full(9, np.nan)}), "q_arm: non-finite value nan"),
        (pack({"images": {"x" * 4000: 0}, "state": np.zeros(9), "prompt": ""}), "got ['xxx"),
    ],
    ids=["bytes", "empty", "text", "no map", "key", "shape", "nan", "long name"],
)
def test_a_malformed_request_is_answered_and_survived(server: Running, other: PolicyClient, message, text):
    before = server.stats.bad_requests
    with raw(server.uri) as connection:
        connection.send(message)
        assert_refused(connection, text)
    assert server.stats.bad_requests == before + 1


@pytest.mark.parametrize("size", [1001, 20_000_000])
def test_an_oversized_message_closes_with_1009(size: int):
    with running(message_bytes=1000) as small, raw(small.uri) as connection, raw(small.uri) as other:
        with contextlib.suppress(ConnectionClosed):  # which may come before the whole message is on its way
            connection.send(bytes(size))
        with pytest.raises(ConnectionClosedError, match=rf"1009 .*{size} bytes.* limit of 1000"):
            connection.recv(timeout=5)
        ask(other)
        assert_answered(other)


def test_fragments_count_together_against_the_size_limit():
    with running(message_bytes=1000) as small, raw(small.uri) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(iter([bytes(400)] * 3))
        with pytest.raises(ConnectionClosedError, match="1009"):
            connection.recv(timeout=5)


def test_a_half_sent_message_holds_nobody_and_is_dropped():
    with running(silence_s=0.3) as server, raw(server.uri) as stuck, PolicyClient(server.uri) as client:
        stuck.socket.sendall(bytes([0x82, 0x80 | 126, 0x40, 0x00]) + bytes(4) + b"half of a message")
        for seed in range(3):
            client.infer(make_observation(), seed=seed)
        with pytest.raises(ConnectionClosed):
            stuck.recv(timeout=5)
        client.infer(make_observation())


def test_a_client_that_never_reads_its_answers_holds_nobody(server: Running, other: PolicyClient):
    with raw(server.uri) as deaf:
        for seed in range(20):
            ask(deaf, seed)
        other.infer(make_observation())
        for seed in range(20):
            assert_answered(deaf, seed)


def test_requests_are_served_in_turn_and_not_for_a_client_that_left():
    release = threading.Event()
    policy = KnownPolicy(lambda observation: release.wait(5))
    with running(policy) as server, raw(server.uri) as greedy, raw(server.uri) as modest:
        ask(greedy, which=0)
        wait_for(lambda: policy.asked)
        with raw(server.uri) as leaving:
            ask(leaving, which=7)
            ask(greedy, which=1)
            ask(modest, which=2)
            wait_for(lambda: server.server._worker._work_queue.qsize() == 2)
        wait_for(lambda: server.stats.clients == 2)
        release.set()
        assert_answered(greedy, which=0)
        assert_answered(modest, which=2)
        assert_answered(greedy, which=1)
    assert policy.asked == ["do 0", "do 2", "do 1"]


def test_a_client_that_leaves_during_its_inference_disturbs_nobody():
    release = threading.Event()
    policy = KnownPolicy(lambda observation: release.wait(5))
    with running(policy) as server:
        with raw(server.uri) as leaving:
            ask(leaving)
            wait_for(lambda: policy.asked)
        with raw(server.uri) as staying:
            ask(staying, seed=3)
            release.set()
            assert_answered(staying, seed=3)
        assert server.stats.requests == 1


def failing(observation: Any) -> None:
    if observation.language_instruction == "do 1":
        raise RuntimeError("non-finite action, do not execute it")


def test_a_failing_policy_is_answered_logged_and_survived(caplog):
    with running(KnownPolicy(failing)) as server, raw(server.uri) as unlucky, raw(server.uri) as lucky:
        with caplog.at_level(logging.ERROR):
            ask(unlucky, which=1)
            assert_refused(unlucky, "the policy failed, RuntimeError: non-finite action, do not execute it")
        ask(lucky, which=2)
        assert_answered(lucky, which=2)
        assert "failed" in caplog.text
        assert server.stats.failures == 1


def test_too_many_clients_are_turned_away_until_one_leaves():
    with running(clients=2) as server:
        with raw(server.uri) as first:
            with raw(server.uri):
                with pytest.raises(InvalidStatus, match="503") as refused, raw(server.uri):
                    pass
                assert b"2 clients are connected" in refused.value.response.body
            wait_for(lambda: server.stats.clients == 1)
            with raw(server.uri) as third:
                for connection in (first, third):
                    ask(connection)
                    assert_answered(connection)
        assert server.stats.refused == 1


def get(uri: str, path: str) -> tuple[int, bytes]:
    address = urlsplit(uri)
    with contextlib.closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": f"Api-Key {KEY}x"}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Api-Key é"}],
    ids=["missing", "wrong", "scheme", "bytes"],
)
def test_only_the_key_opens_and_health_needs_none(headers, caplog):
    with caplog.at_level(logging.DEBUG), running(key=KEY) as server:
        with pytest.raises(InvalidStatus, match="401") as refused, raw(server.uri, additional_headers=headers):
            pass
        assert b"Authorization: Api-Key" in refused.value.response.body
        with raw(server.uri, additional_headers={"Authorization": f"Api-Key {KEY}"}) as connection:
            ask(connection)
            assert_answered(connection)
        assert get(server.uri, "/healthz") == (200, b"OK\n")
        assert get(server.uri, "/")[0] == 401
    logged = [record.getMessage() for record in caplog.records if record.name != "websockets.client"]
    assert not any(KEY in message for message in logged)


def test_a_web_page_is_turned_away(server: Running):
    with pytest.raises(InvalidStatus, match="403"), raw(server.uri, origin="http://example.org"):
        pass


def test_a_stranger_who_speaks_no_http_disturbs_nobody(server: Running, other: PolicyClient):
    address = urlsplit(server.uri)
    with socket.create_connection((str(address.hostname), address.port), timeout=5) as stranger:
        stranger.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
        while stranger.recv(1000):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::", "robot.example"])
def test_beyond_loopback_a_key_is_required(host):
    with pytest.raises(ValueError, match=r"others can reach it, so a key is required; set DEXHIL_API_KEY"):
        PolicyServer(KnownPolicy(), INFO, host=host)


def test_a_taken_port_is_an_error(server: Running):
    async def serve() -> None:
        async with PolicyServer(KnownPolicy(), INFO, port=int(server.uri.rpartition(":")[2])):
            pass

    with pytest.raises(OSError, match="address already in use"):
        asyncio.run(serve())


def test_a_server_that_stops_says_goodbye_and_waits_for_no_policy():
    release = threading.Event()
    policy = KnownPolicy(lambda observation: release.wait(5))
    with running(policy) as server, raw(server.uri) as computing, raw(server.uri) as idle:
        ask(computing)
        wait_for(lambda: policy.asked)
        server.stop()
        for connection in (computing, idle):
            with pytest.raises(ConnectionClosedOK, match=r"1001 .*server stops"):
                connection.recv(timeout=5)
        assert not release.is_set()
        release.set()
        server.join()


def silent(server: Running, count: int) -> list[socket.socket]:
    address = urlsplit(server.uri)
    return [socket.create_connection((str(address.hostname), address.port), timeout=5) for _ in range(count)]


def test_silent_connections_keep_nobody_out_and_are_dropped():
    """Ten times as many as may wait: the oldest give way, and a client with the key comes in."""
    with running(key=KEY, handshakes_per_address=4, handshake_s=60) as server:
        with PolicyClient(server.uri, key=KEY) as before:
            sockets = silent(server, 40)
            wait_for(lambda: server.stats.refused == 36)
            assert len(server.server._arrived) == 4
            with PolicyClient(server.uri, key=KEY, timeout_s=5) as client:
                for each in (before, client):
                    each.infer(make_observation())
            assert get(server.uri, "/healthz")[0] == 200
        for connection in sockets[:30]:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        for connection in sockets:
            connection.close()


def test_all_addresses_together_may_not_use_up_the_sockets():
    with running(handshakes=3, handshakes_per_address=100, handshake_s=60) as server:
        sockets = silent(server, 10)
        wait_for(lambda: server.stats.refused == 7)
        assert len(server.server._arrived) == 3
        for connection in sockets:
            connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="one loopback address elsewhere")
def test_an_address_makes_room_for_its_own_connections_only():
    with running(handshakes_per_address=2, handshake_s=60) as server:
        address = (str(urlsplit(server.uri).hostname), int(urlsplit(server.uri).port or 0))
        others = [socket.create_connection(address, 5, ("127.0.0.2", 0)) for _ in range(2)]
        own = silent(server, 2)
        wait_for(lambda: len(server.server._arrived) == 4)
        assert server.stats.refused == 0
        for connection in (*others, *own):
            connection.close()


def test_a_handshake_that_is_trickled_ends():
    with running(handshake_s=0.3) as server:
        (connection,) = silent(server, 1)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1000):
                pass
        connection.close()


def test_one_address_may_not_take_all_places():
    with running(clients_per_address=1) as server, raw(server.uri):
        with pytest.raises(InvalidStatus, match="503") as refused, raw(server.uri):
            pass
        assert b"1 clients are connected from this address" in refused.value.response.body


def test_many_clients_at_once_each_get_their_own_answers(server: Running):
    wrong: list[int] = []

    def drive(which: int) -> None:
        observation = make_observation(which)
        with PolicyClient(server.uri) as client:
            for seed in range(10):
                if not np.array_equal(client.infer(observation, seed=seed).actions, known_answer(observation, seed)):
                    wrong.append(which)

    threads = [threading.Thread(target=drive, args=(which,)) for which in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
