"""Soak of the policy server: many clients at 20 Hz, for minutes. Are answers right, and does its memory stay?

    python experiments/benchmarks/server.py --out FILE.json [--minutes 5] [--clients 16]

Starts experiments/serve.py on loopback with a checkpoint of random numbers and compares every answer, bit for bit, with
what the same checkpoint answers in this process. Writes {"requests", "wrong": answers that differ, "latency_ms": as
clients see it, "memory_mb": of the server, at the start, after a third of the time and at the end, "exit_status"}.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dexhil.commands import REPOSITORY
from dexhil.models.config import get_model_config
from dexhil.policy import Policy
from dexhil.serving.client import PolicyClient
from dexhil.serving.stats import percentiles
from experiments.benchmarks.random_policy import random_observation, save_random_checkpoint
from experiments.benchmarks.result import machine, parser, write_result

RATE_HZ, QUESTIONS = 20.0, 16  # of a client


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


def ask(uri: str, policy: Policy, seconds: float, number: int) -> tuple[list[float], int]:
    """One client for `seconds`: latencies in ms, and how many answers differ from `policy`'s."""
    rng, latencies, wrong = np.random.default_rng(number), [], 0
    observations = [random_observation(rng, policy.meta) for _ in range(QUESTIONS)]
    right = [policy.infer(seen, seed=number).actions for seen in observations]
    deadline = time.monotonic() + seconds
    with PolicyClient(uri, timeout_s=30.0) as client:
        while time.monotonic() < deadline:
            began, index = time.monotonic(), rng.integers(QUESTIONS)
            actions = client.infer(observations[index], seed=number).actions
            latencies.append(1e3 * (time.monotonic() - began))
            wrong += not np.array_equal(actions, right[index])
            time.sleep(max(began + 1 / RATE_HZ - time.monotonic(), 0))
    return latencies, wrong


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, MB (Linux)."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=5.0)
    arguments.add_argument("--clients", type=int, default=16)
    options = arguments.parse_args()
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
        run = Path(folder) / "random"
        save_random_checkpoint(run, get_model_config("embedded"))
        policy = Policy.load(run)
        with serving(run, Path(folder) / "serve") as (process, uri):
            memory = [resident_mb(process.pid)]
            running = [pool.submit(ask, uri, policy, seconds, number) for number in range(options.clients)]
            time.sleep(seconds / 3)
            memory.append(resident_mb(process.pid))
            latencies, wrong = zip(*(future.result() for future in running), strict=True)
            memory.append(resident_mb(process.pid))
    result = {"benchmark": "server", "machine": machine(), "requests": sum(map(len, latencies)), "wrong": sum(wrong)}
    result |= {"latency_ms": percentiles(np.concatenate(latencies).tolist()), "memory_mb": memory}
    write_result(options.out, result | {"exit_status": process.returncode})


if __name__ == "__main__":
    main()
