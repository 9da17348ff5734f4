"""Loader benchmark: cost of a training sample against plain JPEG decoding, speed, memory, first batch.

    python experiments/benchmarks/loader.py --out loader.json [--episodes 60 600] [--steps 200] [--batches 100]

Protocol: episodes of 200 steps, two 224 px JPEG cameras of about 21 kB, chunks of 16, batches of 64. The unit of cost
is the CPU time of decoding two such JPEGs with simplejpeg on one thread, measured before and after each run. Each case
runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from data_pipeline.build import build_dataset
from data_pipeline.loader import Loader
from data_pipeline.mapping import DEXHIL
from data_pipeline.tensorflow_cpu import tensorflow_datasets
from dexhil.episodes.recorder import EpisodeWriter
from dexhil.schema import EpisodeMetadata, Observation, Step
from dexhil.workers import worker_pool
from experiments.benchmarks.result import machine, parser, write_result

BATCH, CHUNK, SIZE, HZ = 64, 16, 224, 20.0
CAMERAS = ("scene", "wrist")
ROBOT, ACTION_DIM = "fr3_dexhand021", 19


def synthetic_image(rng: np.random.Generator) -> np.ndarray:
    """uint8 [224, 224, 3]: smooth shades with camera-like noise, about 21 kB as a JPEG of quality 95."""
    coarse = rng.uniform(0, 255, (8, 8, 3))
    smooth = np.kron(coarse, np.ones((SIZE // 8, SIZE // 8, 1)))
    return np.clip(smooth + rng.normal(0, 2.2, smooth.shape), 0, 255).astype(np.uint8)


def record_episodes(root: Path, episodes: int, steps: int) -> None:
    """Records synthetic episodes; a pool of images keeps that quick."""
    rng = np.random.default_rng(0)
    pool = [synthetic_image(rng) for _ in range(32)]
    for number in range(episodes):
        facts = EpisodeMetadata(
            f"episode-{number:05d}", "plush", 1, "offline", 0, "", "synthetic", ROBOT, number, 0, 0.0
        )
        writer = EpisodeWriter(root, control_hz=HZ)
        for t in range(steps):
            images = {camera: pool[rng.integers(len(pool))] for camera in CAMERAS}
            q = rng.normal(size=ACTION_DIM).astype(np.float32)
            seen = Observation(images, q[:7], q[7:], q[:7], t / HZ, "Grab that yellow plushie")
            writer.append(Step(seen, q, np.full_like(q, np.nan), False))
        writer.finish(facts)


def decode_unit(jpegs: list[bytes], seconds: float = 2.0) -> float:
    """CPU seconds of decoding two JPEGs."""
    buffer = np.empty((SIZE, SIZE, 3), np.uint8)
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        for data in jpegs:
            simplejpeg.decode_jpeg(data, buffer=buffer)
        count += len(jpegs)
    return 2 * (time.process_time() - start) / count


def measure(dataset: Path, cache: Path, batches: int, workers: int) -> dict[str, Any]:
    """One case, in this process: the loader over a data set whose cache may or may not exist."""
    tensorflow_datasets()  # imports outside the measured time
    start = time.perf_counter()
    loader = Loader([dataset], DEXHIL, batch_size=BATCH, chunk=CHUNK, cache_dir=cache)
    iterator = loader.iterate(0, workers=workers)
    next(iterator)
    first_batch = time.perf_counter() - start
    frames = np.fromfile(next(cache.glob("*/frames.bin")), np.uint8, count=1 << 22).tobytes()
    jpegs = [b"\xff\xd8" + part for part in frames.split(b"\xff\xd8")[1:-1]]
    for _ in range(8):
        next(iterator)  # fills the prefetch buffer
    before = decode_unit(jpegs)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(batches):
        next(iterator)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    iterator.close()
    unit = (before + decode_unit(jpegs)) / 2
    return {
        "jpeg_bytes": round(float(np.mean([len(data) for data in jpegs]))),
        "decode_ms_per_image": 1e3 * unit / 2,
        "unit_cost": cpu / (batches * BATCH) / unit,
        "samples_per_second": batches * BATCH / wall,
        "first_batch_s": first_batch,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "samples": loader.num_samples,
    }


def run_case(*case: Any) -> dict[str, Any]:
    """`measure` in a fresh process."""
    with worker_pool(1) as pool:
        result = pool.submit(measure, *case).result()
    print(", ".join(f"{name} {value:.4g}" for name, value in result.items()), flush=True)
    return result


def benchmark(episodes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Records, builds and measures one size: once without the cache, then `repeats` times with it."""
    with tempfile.TemporaryDirectory() as folder:
        root, began = Path(folder), time.perf_counter()
        record_episodes(root / "episodes", episodes, options.steps)
        recorded = time.perf_counter()
        build_dataset(root / "episodes", root / "rlds")
        seconds = {"record_s": recorded - began, "build_s": time.perf_counter() - recorded}
        case = root / "rlds", root / "cache", options.batches, options.workers
        cold, *warm = [run_case(*case) for _ in range(1 + options.repeats)]
        return {**seconds, "without_cache": cold, "cached": warm}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--episodes", type=int, nargs="+", default=[60, 600])
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--batches", type=int, default=100)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--workers", type=int, default=2)
    options = arguments.parse_args()
    results = {str(count): benchmark(count, options) for count in options.episodes}
    write_result(options.out, {"benchmark": "loader", "machine": machine(), "results": results})


if __name__ == "__main__":
    main()
