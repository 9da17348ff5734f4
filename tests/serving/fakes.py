"""A policy with known answers, and a server of it in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dexhil.fit import PolicyInfo
from dexhil.schema import ActionChunk, Observation
from dexhil.serving.server import Limits, PolicyServer

INFO = PolicyInfo(
    robot="stick",
    control_hz=20.0,
    cameras=("scene", "wrist"),
    image_size=8,
    state_dim=9,
    chunk=4,
    action_dim=9,
    joint_names=tuple(f"joint{i}" for i in range(9)),
    max_delay=2,
    action_space="recorded",
    checkpoint="fake/7",
    saved="2026-01-01T00:00:00Z",
    normalization="0123456789abcdef",
)


def make_observation(seed: int = 0, side: int = 8) -> Observation:
    rng = np.random.default_rng(seed)
    return Observation(
        images={camera: rng.integers(0, 256, (side, side, 3), np.uint8) for camera in INFO.cameras},
        q_arm=rng.uniform(-1, 1, 7).astype(np.float32),
        q_hand=rng.uniform(0, 1, 2).astype(np.float32),
        pose_base_ee=np.array([0.4, 0, 0.3, 1, 0, 0, 0], np.float32),
        timestamp=1.25,
        language_instruction=f"do {seed}",
    )


def make_request(observation: Observation, **more: Any) -> dict[str, Any]:
    """As written by hand, beside `write_request`."""
    state = np.concatenate([observation.q_arm, observation.q_hand])
    return {"images": observation.images, "state": state, "prompt": observation.language_instruction, **more}


def known_answer(observation: Observation, seed: int) -> np.ndarray:
    """float32 [4, 9]: every part of the request decides it."""
    parts = [*(observation.images[camera] for camera in INFO.cameras), observation.q_arm, observation.q_hand]
    text = observation.language_instruction.encode()
    crc = [zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts] + [zlib.crc32(text), seed]
    return np.random.default_rng(crc).uniform(-1, 1, (INFO.chunk, INFO.action_dim)).astype(np.float32)


class KnownPolicy:
    """Answers with `known_answer`. before: called in each inference, to block or to raise there."""

    def __init__(self, before: Callable[[Observation], object] = lambda observation: None) -> None:
        self.before = before
        self.asked: list[str] = []

    def infer(
        self, observation: Observation, *, seed: int, prefix: np.ndarray | None = None, delay: int = 0
    ) -> ActionChunk:
        """With a prefix, the answer begins with `delay` actions of it."""
        self.asked.append(observation.language_instruction)
        self.before(observation)
        actions = known_answer(observation, seed)
        if prefix is not None:
            actions[:delay] = prefix[:delay]
        return ActionChunk(actions, observation.timestamp)


class Running:
    """A server in a thread. `stop` asks it to end, `join` waits for that."""

    def __init__(self, policy: Any, info: PolicyInfo, **options: Any) -> None:
        self._ready, self._options = threading.Event(), options
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(policy, info)))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self, policy: Any, info: PolicyInfo) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with PolicyServer(policy, info, **self._options) as self.server:
            self.uri, self.stats = self.server.uri, self.server.stats
            self._ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server did not end"


@contextlib.contextmanager
def running(policy: Any = None, info: PolicyInfo = INFO, **options: Any) -> Iterator[Running]:
    """A server on a free port; limits as keywords of `Limits`."""
    limits = {name: options.pop(name) for name in list(options) if name in Limits.__dataclass_fields__}
    server = Running(policy or KnownPolicy(), info, limits=Limits(**limits), **options)
    try:
        yield server
    finally:
        with contextlib.suppress(RuntimeError):  # it may have been stopped by the test
            server.stop()
        server.join()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)
