"""The policy on another machine: a real server process, killed and started again while a session goes on."""

import asyncio
import functools
import multiprocessing
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexhil.control.takeover import Mode
from dexhil.fit import PolicyInfo
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ActionChunk, EpisodeMetadata, Observation
from hardware.runtime.policy_process import PolicyProcess, connect
from hardware.runtime.recording import Recorder
from hardware.runtime.session import Session
from tests.hardware.fakes import live_control

KEY = "a key of sixteen characters".replace(" ", "-")
INFO = PolicyInfo(
    robot=SPEC.name, control_hz=20.0, cameras=("scene",), image_size=8, state_dim=SPEC.action_dim, chunk=16,
    action_dim=SPEC.action_dim, joint_names=SPEC.joint_names, max_delay=8, action_space="recorded",
    checkpoint="served/3", saved="2026-01-01T00:00:00Z", normalization="0123456789abcdef",
)  # fmt: skip
SLOW_S = 0.12  # of an inference: some three control steps with all the rest


class Served:
    """Plans to stay, slowly; notes the delay of every prefix that it was given."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def infer(
        self, observation: Observation, *, seed: int, prefix: np.ndarray | None = None, delay: int = 0
    ) -> ActionChunk:
        time.sleep(SLOW_S)
        if prefix is not None:
            with self._notes.open("a") as file:
                file.write(f"{delay} {len(prefix)} {seed}\n")
        here = np.concatenate([observation.q_arm, observation.q_hand]).astype(np.float32)
        actions = np.tile(here, (INFO.chunk, 1))
        if prefix is not None:
            actions[:delay] = prefix[:delay]
        return ActionChunk(actions, observation.timestamp)


def serve(port: int, notes: Path) -> None:
    from dexhil.serving.server import PolicyServer

    async def run() -> None:
        async with PolicyServer(Served(notes), INFO, port=port, key=KEY):
            await asyncio.Event().wait()

    asyncio.run(run())


class Machine:
    """The other machine: a server's process on a fixed port."""

    def __init__(self, notes: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self._notes = f"ws://127.0.0.1:{self.port}", notes
        self.process: Any = None

    def start(self) -> bool:
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(self.port, self._notes), daemon=True)
        self.process.start()
        while True:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            assert self.process.is_alive()
            time.sleep(0.05)

    def kill(self) -> bool:
        self.process.kill()
        self.process.join()
        return True


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "notes")
    made.start()
    yield made
    made.kill()


def test_the_robot_holds_while_the_server_is_away_and_goes_on_when_it_is_back(machine: Machine, tmp_path: Path):
    said: list[str] = []
    policy = PolicyProcess(functools.partial(connect, machine.uri, KEY), hz=20.0, image_bytes=1 << 16)
    live = live_control(policy.newest, handover="rtc")
    latest = lambda: live.control.latest  # noqa: E731
    session = Session(live.control, policy, Recorder(tmp_path / "episodes", control_hz=20.0), said.append)
    notes = tmp_path / "notes"
    script: list[Callable[[], bool]] = [
        lambda: latest().mode is Mode.AUTONOMOUS,
        lambda: notes.exists() and len(notes.read_text().splitlines()) > 3,
        machine.kill,
        lambda: latest().mode is Mode.HOLD and "is the policy server running?" in "\n".join(said),
        machine.start,
        lambda: latest().mode is Mode.AUTONOMOUS,
        lambda: live.operator.press("success") is None,
    ]
    began = time.monotonic()

    def watch(_: float) -> bool:
        assert time.monotonic() - began < 100, f"stuck before {len(script)} more; said: {said}"
        while script and script[0]():
            script.pop(0)
        return True

    draft = EpisodeMetadata("one", "plush", -1, "online", 1, "served/3", "tester", SPEC.name, 7, 0, 0.0)
    with session:
        assert session.identity == {
            "checkpoint_id": "served/3", "info": INFO, "max_delay": 8
        }  # fmt: skip
        episode = session.run_episode(draft, "Grab that yellow plushie", 120.0, watch=watch)
        assert (episode.success, session.upkeep.restarts) == (1, 0)
    assert any(span["cause"] == "watchdog:policy" for span in episode.interventions)
    delays = [int(line.split()[0]) for line in notes.read_text().splitlines()]
    assert min(delays) >= int(SLOW_S * 20)  # measured, not assumed
    assert all(delay <= INFO.max_delay for delay in delays)


def test_a_server_that_is_not_there_or_refuses_the_key_is_one_line(machine: Machine):
    for key, match in (("another-key-of-sixteen", "HTTP 401.*DEXHIL_API_KEY"), (KEY, "is the policy server running")):
        process = PolicyProcess(functools.partial(connect, machine.uri, key), hz=20.0, image_bytes=1 << 10)
        process.start()
        with pytest.raises(OSError, match=match):
            process.wait_until_ready()
        process.stop()
        machine.kill()


def test_a_robot_beside_a_policy_server_loads_no_jax():
    code = (
        "import sys, hardware.eval, hardware.collect, hardware.runtime.report, hardware.runtime.policy_process\n"
        "import dexhil.serving.client, hardware.simulated.devices\n"
        "print('loaded', sorted({'jax', 'flax', 'tensorflow', 'mujoco'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "loaded []"
