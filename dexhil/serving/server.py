"""Serves one policy to several clients over websockets, in the protocol of openpi's clients.

On connecting a client gets the packed `PolicyInfo`. Then each packed request is answered with packed actions and
`server_timing`, or with a text that says what was wrong, after which the connection is closed with code 1011; after a
message over the size limit with 1009. `GET /healthz` answers OK without a key.

Requests are computed one at a time, first come first served. A client's next message is read after its answer, so that
nobody is served twice while another waits. Reading and writing never wait for the policy or for another client. A
connection that has not said yet what it wants gives way to a newer one of its address: silent connections can neither
use up the sockets nor keep a client out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import http
import logging
import time
from typing import Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from dexhil.evaluation.rollout import Policy
from dexhil.fit import MessageError, PolicyInfo
from dexhil.serving import codec, keys
from dexhil.serving.messages import read_request
from dexhil.serving.stats import Stats

MAX_ERROR = 1000  # characters of an error text: some repeat what the client sent
BACKLOG = 32  # connections that are accepted in one go, before any of them is counted
CLOSE_S = 2.0  # a client that does not answer a close is dropped after this

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        clients: with the key, at once.
        handshakes: connections that have not shown it yet; of more the oldest is dropped.
        handshake_s: s that one takes at most.
        silence_s: s without an answer to a ping after which a client is dropped, within twice it.
    """

    clients: int = 32
    clients_per_address: int = 24
    handshakes: int = 64
    handshakes_per_address: int = 16
    handshake_s: float = 3.0
    message_bytes: int = 16 * 2**20
    silence_s: float = 20.0


class PolicyServer:
    """async with PolicyServer(policy, info) as server: …  Listens inside; at the end, clients hear of it.

    Raises:
        ValueError: another host than loopback without a `key`, which clients must send.
        OSError: the `port` is taken; 0 takes a free one, see `uri`.
    """

    def __init__(
        self,
        policy: Policy,
        info: PolicyInfo,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
        limits: Limits | None = None,
    ) -> None:
        keys.check_host(host, key)
        self.info, self.stats, self.limits = info, Stats(), limits or Limits()
        self._policy, self._host, self._port, self._key = policy, host, port, key
        self._greeting = codec.pack(info.to_message())
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._arrived: list[ServerConnection] = []  # without a finished handshake, oldest first
        self._clients: set[ServerConnection] = set()
        self._server: Server

    @property
    def uri(self) -> str:
        """ws:// address that clients take."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    async def __aenter__(self) -> PolicyServer:
        policy_server = self

        class Counted(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                policy_server._count(self)

        self._server = await serve(
            self._serve_client,
            self._host,
            self._port,
            origins=[None],  # browsers name an origin: no web page may talk to a robot's policy
            compression=None,
            create_connection=Counted,
            process_request=self._admit,
            ping_interval=self.limits.silence_s,
            ping_timeout=self.limits.silence_s,
            open_timeout=self.limits.handshake_s,
            close_timeout=CLOSE_S,
            max_size=self.limits.message_bytes,
            max_queue=2,
            backlog=BACKLOG,
            logger=keys.QUIET,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._server.handlers:
            if connection.state is State.CONNECTING:
                connection.transport.abort()
        self._server.close(reason="server stops")
        await self._server.wait_closed()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _count(self, connection: ServerConnection) -> None:
        waiting = [other for other in self._arrived if other.state is State.CONNECTING]
        same = [other for other in waiting if _address(other) == _address(connection)]
        crowded = same if len(same) >= self.limits.handshakes_per_address else waiting
        if crowded is same or len(waiting) >= self.limits.handshakes:
            crowded[0].transport.abort()
            waiting.remove(crowded[0])
            self.stats.refused += 1
        self._arrived = [*waiting, connection]

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._key and not keys.authorized(request.headers.get_all("Authorization"), self._key):
            text = "missing or wrong key; expected the header Authorization: Api-Key KEY\n"
            return self._refuse(connection, http.HTTPStatus.UNAUTHORIZED, text)
        self._clients = {other for other in self._clients if other.state in (State.CONNECTING, State.OPEN)}
        here = sum(_address(other) == _address(connection) for other in self._clients)
        for count, limit, where in (
            (len(self._clients), self.limits.clients, ""),
            (here, self.limits.clients_per_address, " from this address"),
        ):
            if count >= limit:
                text = f"{count} clients are connected{where}, which is the limit; try again later\n"
                return self._refuse(connection, http.HTTPStatus.SERVICE_UNAVAILABLE, text)
        self._clients.add(connection)
        return None

    def _refuse(self, connection: ServerConnection, status: http.HTTPStatus, text: str) -> Response:
        self.stats.refused += 1
        return connection.respond(status, text)

    async def _serve_client(self, connection: ServerConnection) -> None:
        self.stats.connections += 1
        self.stats.clients += 1
        gone = asyncio.ensure_future(connection.wait_closed())
        previous: dict[str, float] = {}
        try:
            await connection.send(self._greeting)
            async for message in connection:
                began = time.perf_counter()
                answer = await self._infer(message, gone)
                if answer is None:
                    return
                answer["server_timing"] |= previous
                await connection.send(codec.pack(answer))
                self.stats.requests += 1
                previous = {"prev_total_ms": 1e3 * (time.perf_counter() - began)}
                self.stats.total_ms.append(previous["prev_total_ms"])
        except ConnectionClosed:
            pass
        except Exception as error:
            with contextlib.suppress(ConnectionClosed):
                await self._answer_error(connection, error)
        finally:
            gone.cancel()
            self.stats.clients -= 1

    async def _infer(self, message: str | bytes, gone: asyncio.Future[None]) -> dict[str, Any] | None:
        """The answer, once it is this request's turn; None for a client that left the queue: it costs nothing."""
        if isinstance(message, str):
            raise MessageError(f"request: expected a binary message in msgpack, got the text {message[:80]!r}")
        observation, options = read_request(codec.unpack(message), self.info)

        def compute() -> dict[str, Any]:
            began = time.perf_counter()
            actions = np.asarray(self._policy.infer(observation, **options).actions, np.float32)
            return {"actions": actions, "server_timing": {"infer_ms": 1e3 * (time.perf_counter() - began)}}

        answer = asyncio.get_running_loop().run_in_executor(self._worker, compute)
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return None
        return answer.result()

    async def _answer_error(self, connection: ServerConnection, error: Exception) -> None:
        if isinstance(error, (ValueError, TypeError)):
            self.stats.bad_requests += 1
            text = str(error)
        else:
            self.stats.failures += 1
            text = f"the policy failed, {type(error).__name__}: {error}"
            _log.error("request of %s failed", connection.remote_address, exc_info=error)
        await connection.send(text[:MAX_ERROR])
        await connection.close(1011, "the error is in the previous message")


def _address(connection: ServerConnection) -> str:
    return (connection.remote_address or ("",))[0]
