"""Soak of the policy server: many clients, some of whose messages are malformed, oversized or stop half-way.

    python experiments/benchmarks/server.py --out FILE.json [--minutes 5] [--clients 16]

Starts experiments/serve.py on loopback with a checkpoint of random numbers (embedded model), drives it with a thread
per client at up to RATE_HZ each, and compares every answer, bit for bit, with what the same checkpoint answers in this
process. A share FAULTY of the messages is at fault, and what comes back is checked too. Stops by itself. Writes

    requests, wrong: answers, and those that differ           errors: {text: count} of clients that got no answer
    faults, faults_misanswered: {kind: count}                 reconnects: after faults
    unexpected_connections: beyond clients, faults and these  latency_ms: as clients see it
    server: its report; crashed, exit_status
    memory_mb: of the server: start, warm, end, and slope_per_minute from WARM on
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from dexhil.commands import REPOSITORY, progress
from dexhil.models.config import VLAConfig, get_model_config
from dexhil.models.vla import abstract_params
from dexhil.policy import Policy
from dexhil.schema import ARM_DOF, Observation
from dexhil.serving.client import PolicyClient
from dexhil.serving.server import Limits
from dexhil.serving.stats import percentiles
from dexhil.training.checkpoints import Checkpoints
from dexhil.training.optimizer import OptimizerConfig, make_optimizer
from dexhil.training.step import init_state
from experiments.benchmarks.train_step import make_meta

RATE_HZ = 20.0
FAULTY = 0.01
QUESTIONS = 16  # of a client: pairs of observation and seed
CAMERA_SIDE = 64  # pixels, as the policy takes them: clients need not resize
HALF_SENT_S = 1.0  # a stopped message stays open so long
SAMPLE_S, WARM = 2.0, 0.3  # between two looks at the memory; share of the time that counts as warm-up


def save_random_checkpoint(run: Path, model: VLAConfig) -> None:
    """A run whose policy heeds all that it is shown: a fresh model's zeros would hide it."""
    rng, shapes = np.random.default_rng(0), abstract_params(model)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)
    state = init_state(params, make_optimizer(OptimizerConfig(steps=1, warmup_steps=0)))
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state, make_meta(model))


def random_observation(rng: np.random.Generator, policy: Policy) -> Observation:
    hand = policy.meta.normalization.recorded_dims["state"] - ARM_DOF
    shape = (CAMERA_SIDE, CAMERA_SIDE, 3)
    return Observation(
        images={camera: rng.integers(0, 256, shape, np.uint8) for camera in policy.meta.model.cameras},
        q_arm=rng.uniform(-1, 1, ARM_DOF).astype(np.float32),
        q_hand=rng.uniform(0, 1, hand).astype(np.float32),
        pose_base_ee=np.array([0, 0, 0, 1, 0, 0, 0], np.float32),
        timestamp=0.0,
        language_instruction=f"Grab that yellow plushie {rng.integers(10)}",
    )


@dataclasses.dataclass(frozen=True)
class Question:
    observation: Observation
    seed: int
    answer: np.ndarray


def make_questions(policy: Policy, clients: int) -> list[list[Question]]:
    """QUESTIONS of each client, with the right answers; no two have the same."""
    rng = np.random.default_rng(1)
    asked = [(random_observation(rng, policy), int(rng.integers(2**32))) for _ in range(clients * QUESTIONS)]
    questions = [Question(seen, seed, policy.infer(seen, seed=seed).actions) for seen, seed in asked]
    assert len({question.answer.tobytes() for question in questions}) == len(questions)
    return [questions[i::clients] for i in range(clients)]


@contextlib.contextmanager
def serving(run: Path, workdir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """experiments/serve.py in a process of its own, and its address. Asks it to end; after 30 s ends it by force."""
    command = [sys.executable, "experiments/serve.py", f"--checkpoint={run}", "--port=0", f"--workdir={workdir}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        try:
            words = next((line.split() for line in process.stdout if line.startswith("serving ")), None)
            if words is None:
                raise RuntimeError(f"serve.py ended with {process.wait()} before it served; its message is above")
            drain = threading.Thread(target=process.stdout.read, daemon=True)
            drain.start()
            yield process, words[3]
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            drain.join()
        finally:
            process.kill()


class Client:
    """One client in its thread: asks, compares, and now and then sends a fault. Counts what it sees."""

    def __init__(self, uri: str, questions: list[Question], number: int) -> None:
        self._uri, self._questions, self._rng = uri, questions, np.random.default_rng([2, number])
        self.latencies_ms: list[float] = []
        self.wrong = self.reconnects = 0
        self.errors: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.misanswered: collections.Counter[str] = collections.Counter()

    def run(self, deadline: float) -> None:
        with PolicyClient(self._uri, timeout_s=30.0) as policy:
            connected = True
            while time.monotonic() < deadline:
                began = time.monotonic()
                if self._rng.random() < FAULTY:
                    policy.close()
                    self._misbehave(str(self._rng.choice(list(FAULTS))))
                    connected = False
                else:
                    self.reconnects += not connected
                    connected = True
                    self._ask(policy)
                time.sleep(max(began + 1 / RATE_HZ - time.monotonic(), 0))

    def _ask(self, policy: PolicyClient) -> None:
        question = self._questions[self._rng.integers(len(self._questions))]
        began = time.perf_counter()
        try:
            actions = policy.infer(question.observation, seed=question.seed).actions
        except (OSError, ValueError) as error:
            self.errors[f"{type(error).__name__}: {error}"] += 1
            return
        self.latencies_ms.append(1e3 * (time.perf_counter() - began))
        self.wrong += not np.array_equal(actions, question.answer)

    def _misbehave(self, kind: str) -> None:
        self.faults[kind] += 1
        with connect(self._uri, compression=None, proxy=None, close_timeout=5) as connection:
            connection.recv(timeout=30)
            self.misanswered[kind] += not FAULTS[kind](connection, self._rng)


def malformed(connection: Connection, rng: np.random.Generator) -> bool:
    """Whether random bytes are answered with a text and close code 1011."""
    connection.send(b"\xc1" + rng.bytes(int(rng.integers(200))))
    return isinstance(connection.recv(timeout=30), str) and closed_with(connection, 1011)


def oversized(connection: Connection, _: np.random.Generator) -> bool:
    """Whether one byte too many is answered with close code 1009."""
    with contextlib.suppress(ConnectionClosed):
        connection.send(bytes(Limits().message_bytes + 1))
    return closed_with(connection, 1009)


def half_sent(connection: Connection, rng: np.random.Generator) -> bool:
    """Whether nothing comes back for a frame that announces 1 MB and stops after a part; then the client is gone."""
    header = bytes([0x82, 0x80 | 127]) + (10**6).to_bytes(8, "big") + bytes(4)
    connection.socket.sendall(header + rng.bytes(int(rng.integers(1, 10**5))))
    with contextlib.suppress(TimeoutError):
        connection.recv(timeout=HALF_SENT_S)
        return False
    connection.close_socket()
    return True


def closed_with(connection: Connection, code: int) -> bool:
    try:
        connection.recv(timeout=30)
    except ConnectionClosed as closed:
        return closed.rcvd is not None and closed.rcvd.code == code
    return False


FAULTS: dict[str, Callable[[Connection, np.random.Generator], bool]] = {
    "malformed": malformed,
    "oversized": oversized,
    "half_sent": half_sent,
}


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, MB (Linux); NaN once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), float("nan"))


def soak(process: subprocess.Popen[str], clients: list[Client], seconds: float) -> list[tuple[float, float]]:
    """Runs the clients; returns (minutes, MB) of the server on the way. Ends early where the server dies."""
    began = time.monotonic()
    threads = [threading.Thread(target=client.run, args=(began + seconds,), daemon=True) for client in clients]
    samples = [(0.0, resident_mb(process.pid))]
    for thread in threads:
        thread.start()
    with progress(round(seconds), "soak, s") as bar:
        while any(thread.is_alive() for thread in threads) and process.poll() is None:
            time.sleep(SAMPLE_S)
            samples.append(((time.monotonic() - began) / 60, resident_mb(process.pid)))
            answers, wrong = sum(len(client.latencies_ms) for client in clients), sum(c.wrong for c in clients)
            bar.update(min(round(time.monotonic() - began), round(seconds)), answers=answers, wrong=wrong)
    return samples


def memory(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Start, after warm-up, end, and the least-squares slope between the last two."""
    minutes, mb = np.array(samples).T
    warm = minutes >= WARM * minutes[-1]
    slope = float(np.polyfit(minutes[warm], mb[warm], 1)[0])
    return {"start": mb[0], "warm": mb[warm][0], "end": mb[-1], "slope_per_minute": slope}


def summarise(clients: list[Client], samples: list[tuple[float, float]], report: dict[str, Any]) -> dict[str, Any]:
    latencies = collections.deque(latency for client in clients for latency in client.latencies_ms)
    faults = {kind: sum(client.faults[kind] for client in clients) for kind in FAULTS}
    reconnects = sum(client.reconnects for client in clients)
    expected = len(clients) + sum(faults.values()) + reconnects
    return {
        "requests": len(latencies),
        "requests_per_second": len(latencies) / (60 * samples[-1][0]),
        "wrong": sum(client.wrong for client in clients),
        "errors": dict(sum((client.errors for client in clients), collections.Counter())),
        "faults": faults,
        "faults_misanswered": {kind: sum(client.misanswered[kind] for client in clients) for kind in FAULTS},
        "reconnects": reconnects,
        "unexpected_connections": report["connections"] - expected if report else None,
        "latency_ms": percentiles(latencies),
        "memory_mb": memory(samples),
        "server": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak of the policy server on loopback.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, workdir = Path(folder) / "random", Path(folder) / "serve"
        save_random_checkpoint(run, get_model_config("embedded"))
        questions = make_questions(Policy.load(run), options.clients)
        with serving(run, workdir) as (process, uri):
            clients = [Client(uri, asked, number) for number, asked in enumerate(questions)]
            samples = soak(process, clients, 60 * options.minutes)
            crashed = process.poll() is not None
        report = json.loads((workdir / "report.json").read_text())["results"] if not process.returncode else {}
    result = {
        "benchmark": "server",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "minutes": options.minutes,
        "clients": options.clients,
        "crashed": crashed,
        "exit_status": process.returncode,
        **summarise(clients, samples, report),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
