"""A policy behind a server, for the control loop of a robot PC: same `infer` as a policy in the process. No JAX."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.frames import CloseCode
from websockets.http11 import Response
from websockets.sync.client import ClientConnection, connect

from dexhil.fit import Interface, PolicyInfo, check_fits
from dexhil.schema import ActionChunk, Observation
from dexhil.serving import codec, keys
from dexhil.serving.messages import read_actions, write_request

RETRY_S = 0.1  # between two attempts to connect
CLOSE_S = 1.0  # a server that does not answer a close is left after this


class PolicyServerError(ValueError):
    """The server answered with an error, or is not the one expected; the message says what."""


class PolicyClient:
    """Connects at once. A lost connection is made again within the same call: asking twice gives the same answer.

    Args:
        uri: ws://HOST:PORT or wss://….
        key: API key, where the server asks for one.
        timeout_s: s that connecting, and `infer`, take at most: a control loop holds the robot and asks again.
        rig: what the served policy must fit.

    Raises:
        ConnectionError: nobody answers.
        PermissionError: the server refuses the key.
        TimeoutError: it is not there in time.
        ConfigError: the policy does not fit.
        PolicyServerError: it is another server.
        MessageError: the same.
    """

    def __init__(self, uri: str, *, key: str = "", timeout_s: float = 10.0, rig: Interface | None = None) -> None:
        self._uri, self._timeout_s, self._rig = uri, timeout_s, rig
        self._headers = {"Authorization": keys.authorization(key)} if key else {}
        self._connection: ClientConnection | None = None
        self._info: PolicyInfo | None = None
        self._persist(self._connected)

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def info(self) -> PolicyInfo:
        """What the server says of its policy."""
        assert self._info is not None, "the constructor connects"
        return self._info

    @property
    def checkpoint_id(self) -> str:
        return self.info.checkpoint

    def infer(
        self, observation: Observation, *, seed: int = 0, prefix: np.ndarray | None = None, delay: int = 0
    ) -> ActionChunk:
        """The next H actions [H, A] rad, as `dexhil.policy.Policy.infer` gives them; after an error it connects again.

        Raises:
            SchemaError: the observation breaks the contract; nothing was sent.
            MessageError: it is not of this policy; nothing was sent.
            PolicyServerError: the server refuses it.
            ConnectionError: there is no server within `timeout_s`.
            PermissionError: the server refuses the key.
            TimeoutError: there is no answer within `timeout_s`.
        """
        given = ({} if prefix is None else {"prefix": prefix}) | ({"delay": delay} if delay else {})
        request = codec.pack(write_request(observation, self.info, seed=seed, **given))
        answer = self._persist(lambda deadline: self._exchange(request, deadline))
        return ActionChunk(read_actions(answer, self.info), observation.timestamp)

    def close(self) -> None:
        """Idempotent; the next `infer` connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _persist(self, act: Callable[[float], Any]) -> Any:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return act(deadline)
            except BaseException as error:
                self._drop()  # no late answer may be taken for the next one
                if isinstance(error, TimeoutError):
                    text = f"{self._uri}: no answer within {self._timeout_s:g} s; is the server overloaded?"
                    raise TimeoutError(text) from None
                lost = isinstance(error, (ConnectionClosed, InvalidMessage, OSError))
                if not lost or isinstance(error, PermissionError):
                    raise
                if time.monotonic() + RETRY_S >= deadline:
                    reason = str(error) or type(error).__name__
                    raise ConnectionError(f"{self._uri}: {reason}; is the policy server running?") from error
            time.sleep(RETRY_S)

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.socket.shutdown(socket.SHUT_RDWR)
        self.close()

    def _exchange(self, request: bytes, deadline: float) -> Any:
        connection = self._connected(deadline)
        try:
            connection.send(request)
            answer = connection.recv(timeout=max(deadline - time.monotonic(), 0))
        except ConnectionClosed as error:
            if error.rcvd and error.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
                raise PolicyServerError(f"{self._uri}: the request is too large: {error.rcvd.reason}") from error
            raise
        if isinstance(answer, str):
            raise PolicyServerError(f"{self._uri}: {answer}")
        return codec.unpack(answer)

    def _connected(self, deadline: float) -> ClientConnection:
        if self._connection is None:
            self._connection = _open(self._uri, self._headers, max(deadline - time.monotonic(), RETRY_S))
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: the kernel ends a write to a server that stopped reading
                limit_ms = int(1e3 * self._timeout_s)
                self._connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
            greeting = self._connection.recv(timeout=max(deadline - time.monotonic(), RETRY_S))
            info = PolicyInfo.from_message(codec.unpack(greeting) if isinstance(greeting, bytes) else greeting)
            if self._info not in (None, info):
                raise PolicyServerError(
                    f"{self._uri}: serves {info.checkpoint} of {info.robot!r} now (saved {info.saved}), not "
                    f"{self.info.checkpoint} (saved {self.info.saved}); make a new client for it"
                )
            if self._rig is not None:
                check_fits(info, self._rig)
            self._info = info
        return self._connection


def _open(uri: str, headers: dict[str, str], timeout_s: float) -> ClientConnection:
    try:
        return connect(
            uri,
            additional_headers=headers,
            compression=None,
            proxy=None,  # a robot sits beside its server
            open_timeout=timeout_s,
            close_timeout=CLOSE_S,
            max_size=None,
            logger=keys.QUIET,
        )
    except (InvalidURI, ValueError, OverflowError) as error:  # OverflowError: a port beyond 65535
        raise ValueError(f"{uri}: expected the address of a policy server, such as ws://127.0.0.1:8000") from error
    except InvalidStatus as error:
        raise _refusal(uri, error.response) from None
    except InvalidMessage:
        raise
    except InvalidHandshake as error:
        raise PolicyServerError(f"{uri}: {error}; is it a policy server?") from error


def _refusal(uri: str, response: Response) -> Exception:
    text = f"{uri}: HTTP {response.status_code}, {(response.body or b'').decode(errors='replace').strip()[:200]}"
    if response.status_code in (401, 403):
        return PermissionError(f"{text}; give the server's key, for commands in the variable {keys.VARIABLE}")
    if response.status_code == 503:
        return ConnectionRefusedError(text)
    return PolicyServerError(f"{text}; is it a policy server?")
