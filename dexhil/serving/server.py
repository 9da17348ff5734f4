"""Serves one policy to several clients over websockets, in the protocol of openpi's clients.

On connecting a client gets the packed `PolicyInfo`. Then each packed request is answered with packed actions and
`server_timing`, or with a text that says what was wrong, after which the connection is closed with code 1011. A message
over the size limit closes it with 1009. `GET /healthz` answers OK without a key.

Requests are computed one at a time in one thread, first come first served. A client has at most one request in the
queue, since its next message is read after its answer: so nobody is served twice while another waits, and the queue is
as long as there are clients. Reading and writing never wait for the policy or for another client.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import http
import logging
import time
from types import TracebackType

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from dexhil.evaluation.rollout import Policy
from dexhil.serving import codec, keys
from dexhil.serving.messages import MessageError, PolicyInfo, read_request
from dexhil.serving.stats import Stats

MAX_ERROR = 1000  # characters of an error text: some repeat what the client sent
CLOSE_S = 2.0  # a client that does not answer a close is dropped after this

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server takes.

    requests_per_s: of one connection; a second's worth may come at once
    silence_s: a client that answers no ping for so long, as when its message stops half-way, is dropped within twice it
    grace_s: so long may the requests in hand take when the server stops
    """

    clients: int = 32
    message_bytes: int = 16 * 2**20
    requests_per_s: float = 100.0
    silence_s: float = 20.0
    grace_s: float = 10.0


class Allowance:
    """Token bucket: `rate` requests per second on average, `rate` at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._tokens, self._filled = rate, rate, now

    def spend(self, now: float) -> None:
        """Raises MessageError where the client asks too often."""
        self._tokens = min(self._rate, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            raise MessageError(f"rate limit: at most {self._rate:g} requests/s per client; ask less often")
        self._tokens -= 1


class _ClientLeft(Exception):
    """The client of a queued request is gone."""


class PolicyServer:
    """async with PolicyServer(policy, info) as server: …  Listens inside, and finishes what it has in hand at the end.

    host, port: 0 takes a free port, see `uri`. key: what clients must send, "" on loopback only. Raises ValueError on
    another host without a key, OSError where the port is taken.
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
        self._connections: set[ServerConnection] = set()
        self._idle: set[ServerConnection] = set()
        self._stopping = False
        self._server: Server

    @property
    def uri(self) -> str:
        """ws:// address that clients take."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    async def __aenter__(self) -> PolicyServer:
        self._server = await serve(
            self._serve_client,
            self._host,
            self._port,
            origins=[None],  # browsers name an origin: no web page may talk to a robot's policy
            compression=None,
            process_request=self._admit,
            ping_interval=self.limits.silence_s,
            ping_timeout=self.limits.silence_s,
            open_timeout=self.limits.silence_s,
            close_timeout=CLOSE_S,
            max_size=self.limits.message_bytes,
            max_queue=2,
            logger=keys.QUIET,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No new clients; those that wait are told, requests in hand are answered within `grace_s`."""
        self._stopping = True
        self._server.close(close_connections=False)
        farewells = [asyncio.ensure_future(connection.close(1001, "server stops")) for connection in self._idle]
        for connection in self._server.handlers:
            if connection.state is State.CONNECTING:
                connection.transport.abort()
        try:
            await asyncio.wait_for(self._server.wait_closed(), self.limits.grace_s)
        except TimeoutError:
            _log.warning("requests still open after %g s are dropped", self.limits.grace_s)
            for connection in self._server.handlers:
                connection.transport.abort()
            await self._server.wait_closed()
        await asyncio.gather(*farewells)
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """The HTTP answer to a client that does not get a websocket, None for one that does."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._key and not keys.authorized(request.headers.get_all("Authorization"), self._key):
            text = "missing or wrong key; expected the header Authorization: Api-Key KEY\n"
            return self._refuse(connection, http.HTTPStatus.UNAUTHORIZED, text)
        open_states = (State.CONNECTING, State.OPEN)
        self._connections = {other for other in self._connections if other.state in open_states}
        if len(self._connections) >= self.limits.clients:
            text = f"{self.limits.clients} clients are connected, which is the limit; try again later\n"
            return self._refuse(connection, http.HTTPStatus.SERVICE_UNAVAILABLE, text)
        self._connections.add(connection)
        return None

    def _refuse(self, connection: ServerConnection, status: http.HTTPStatus, text: str) -> Response:
        self.stats.refused += 1
        return connection.respond(status, text)

    async def _serve_client(self, connection: ServerConnection) -> None:
        self.stats.joined()
        gone = asyncio.ensure_future(connection.wait_closed())
        try:
            await connection.send(self._greeting)
            await self._answer_requests(connection, gone)
        except ConnectionClosed:
            pass
        finally:
            gone.cancel()
            self.stats.left()

    async def _answer_requests(self, connection: ServerConnection, gone: asyncio.Future[None]) -> None:
        allowance = Allowance(self.limits.requests_per_s, time.monotonic())
        timing: dict[str, float] = {}
        while not self._stopping:
            message = await self._next_message(connection)
            began = time.perf_counter()
            try:
                allowance.spend(time.monotonic())
                actions, infer_ms = await self._infer(message, gone)
            except _ClientLeft:
                return
            except Exception as error:
                await self._answer_error(connection, error)
                return
            timing["infer_ms"] = infer_ms
            await connection.send(codec.pack({"actions": actions, "server_timing": timing}))
            timing["prev_total_ms"] = 1e3 * (time.perf_counter() - began)
            self.stats.answered(timing["prev_total_ms"], infer_ms)
        await connection.close(1001, "server stops")

    async def _next_message(self, connection: ServerConnection) -> str | bytes:
        self._idle.add(connection)
        try:
            return await connection.recv()
        finally:
            self._idle.discard(connection)

    async def _infer(self, message: str | bytes, gone: asyncio.Future[None]) -> tuple[np.ndarray, float]:
        """Actions float32 [H, A] and the ms that the policy took, once it is this request's turn."""
        if isinstance(message, str):
            raise MessageError(f"request: expected a binary message in msgpack, got the text {message[:80]!r}")
        observation, options = read_request(codec.unpack(message), self.info)

        def compute() -> tuple[np.ndarray, float]:
            began = time.perf_counter()
            actions = self._policy.infer(observation, **options).actions
            return np.asarray(actions, np.float32), 1e3 * (time.perf_counter() - began)

        answer = asyncio.get_running_loop().run_in_executor(self._worker, compute)
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()  # nothing is computed for a client that left the queue
            raise _ClientLeft
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
