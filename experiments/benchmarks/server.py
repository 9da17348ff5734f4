"""Soak of a policy server that runs, here or across a network: many clients at 20 Hz. Are all answers right, how late?

    python experiments/serve.py --checkpoint runs/sim
    python experiments/benchmarks/server.py --out FILE.json --checkpoint runs/sim [--server ws://127.0.0.1:8000]
        [--minutes 5] [--clients 16]

Compares every answer, bit for bit, with what the same checkpoint answers in this process. Writes {"requests", "wrong":
answers that differ, "latency_ms": as clients see it}.
"""

import concurrent.futures
import time
from pathlib import Path

import numpy as np

from dexhil.policy import Policy
from dexhil.serving.client import PolicyClient
from dexhil.serving.keys import read_key
from dexhil.serving.stats import percentiles
from experiments.benchmarks.random_policy import random_observation
from experiments.benchmarks.result import machine, parser, write_result

RATE_HZ, QUESTIONS = 20.0, 16  # of a client


def ask(uri: str, policy: Policy, seconds: float, number: int) -> tuple[list[float], int]:
    """One client for `seconds`: latencies in ms, and how many answers differ from `policy`'s."""
    rng, latencies, wrong = np.random.default_rng(number), [], 0
    observations = [random_observation(rng, policy.meta) for _ in range(QUESTIONS)]
    right = [policy.infer(seen, seed=number).actions for seen in observations]
    deadline = time.monotonic() + seconds
    with PolicyClient(uri, key=read_key(), timeout_s=30.0) as client:
        while time.monotonic() < deadline:
            began, index = time.monotonic(), rng.integers(QUESTIONS)
            actions = client.infer(observations[index], seed=number).actions
            latencies.append(1e3 * (time.monotonic() - began))
            wrong += not np.array_equal(actions, right[index])
            time.sleep(max(began + 1 / RATE_HZ - time.monotonic(), 0))
    return latencies, wrong


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoint", type=Path, required=True, help="what the server serves")
    arguments.add_argument("--server", default="ws://127.0.0.1:8000")
    arguments.add_argument("--minutes", type=float, default=5.0)
    arguments.add_argument("--clients", type=int, default=16)
    options = arguments.parse_args()
    policy = Policy.load(options.checkpoint)
    with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
        given = (options.server, policy, 60 * options.minutes)
        running = [pool.submit(ask, *given, number) for number in range(options.clients)]
        latencies, wrong = zip(*(future.result() for future in running), strict=True)
    result = {"benchmark": "server", "machine": machine(), "requests": sum(map(len, latencies)), "wrong": sum(wrong)}
    write_result(options.out, result | {"latency_ms": percentiles(np.concatenate(latencies).tolist())})


if __name__ == "__main__":
    main()
