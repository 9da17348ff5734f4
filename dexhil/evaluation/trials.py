"""Many paired trials in worker processes. Every finished trial is on disk at once: a killed evaluation continues."""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from dexhil.control.executor import DEFAULT, ExecutorConfig
from dexhil.evaluation.rollout import Filming, Policy, ScoredRig, Trial, run_trial
from dexhil.reports.video import write_picture, write_video
from dexhil.workers import use_one_thread, worker_died, worker_pool

TRIALS_FILE = "trials.jsonl"


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a trial needs, as data and picklable factories, so that every worker builds its own.

    Attributes:
        identity: all that the outcomes depend on (checkpoint, rig settings); others' trials are not reused.
        videos_per_task: of so many trials, and of failures among thrice as many, there is a video; else a picture.
    """

    make_rig: Callable[[], ScoredRig]
    make_policy: Callable[[], Policy]
    folder: Path
    identity: str
    executor: ExecutorConfig = DEFAULT
    max_seconds: float | None = None
    latency_steps: int = 0
    videos_per_task: int = 4
    filming: Filming = dataclasses.field(default_factory=Filming)


def run_trials(
    bench: Bench,
    tasks: Sequence[str],
    *,
    trials: int,
    first_seed: int,
    workers: int = 1,
    on_trial: Callable[[Trial, int, int], None] = lambda trial, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trial]:
    """`trials` trials of each task with seeds first_seed, first_seed + 1, …; returns them by task, then seed.

    The same seeds give the same starts for every policy. workers: processes; 0 runs in this one. on_trial(trial, done,
    total) is called after each. Once `stop()` is true, running trials finish and those done so far are returned.
    Frames are in `bench.folder` (see picture_path, video_path), not in the result.
    """
    bench.folder.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(bench.folder / TRIALS_FILE)
    jobs = [Job(task, first_seed + i, _videos(i, bench.videos_per_task)) for i in range(trials) for task in tasks]
    finished = {(trial.task, trial.seed): trial for trial in read_trials(bench.folder, bench.identity)}
    open_jobs = [job for job in jobs if job[:2] not in finished]
    finished = {job[:2]: finished[job[:2]] for job in jobs if job[:2] in finished}
    results = _in_workers(bench, open_jobs, workers, stop) if workers else _in_this_process(bench, open_jobs, stop)
    for trial in results:
        row = {field: value for field, value in vars(trial).items() if field != "frames"}
        with (bench.folder / TRIALS_FILE).open("a") as file:
            file.write(json.dumps({"identity": bench.identity, "trial": row}) + "\n")
        finished[trial.task, trial.seed] = trial
        on_trial(trial, len(finished), len(jobs))
    return sorted(finished.values(), key=lambda trial: (tasks.index(trial.task), trial.seed))


def outcomes(trials: Sequence[Trial]) -> dict[str, list[bool]]:
    """task -> success of each trial in the order of the seeds."""
    tasks = dict.fromkeys(trial.task for trial in trials)
    by_seed = sorted(trials, key=lambda trial: trial.seed)
    return {task: [trial.success for trial in by_seed if trial.task == task] for task in tasks}


def read_trials(folder: Path, identity: str) -> list[Trial]:
    """Trials of `identity` that an earlier run finished."""
    path = folder / TRIALS_FILE
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [Trial(**row["trial"]) for row in rows if row["identity"] == identity]


def picture_path(folder: Path, trial: Trial) -> Path:
    """JPEG of the trial's last moment."""
    return folder / f"{trial.task}-{trial.seed}.jpg"


def video_path(folder: Path, trial: Trial) -> Path:
    """Video of the trial; exists where it was filmed whole."""
    return folder / f"{trial.task}-{trial.seed}.mp4"


class Job(NamedTuple):
    """A trial to run. video: kept "always", where it "fails", or "" for none."""

    task: str
    seed: int
    video: str


def _videos(index: int, per_task: int) -> str:
    if index < per_task:
        return "always"
    return "fails" if index < 4 * per_task else ""


def _drop_torn_line(path: Path) -> None:
    if path.is_file():
        text = path.read_bytes()
        os.truncate(path, text.rfind(b"\n") + 1)


def _one_trial(bench: Bench, rig: ScoredRig, policy: Policy, job: Job) -> Trial:
    filming = dataclasses.replace(bench.filming, only_last=not job.video)
    trial = run_trial(
        rig,
        policy,
        job.task,
        job.seed,
        executor=bench.executor,
        max_seconds=bench.max_seconds,
        filming=filming,
        latency_steps=bench.latency_steps,
    )
    write_picture(picture_path(bench.folder, trial), trial.frames[-1])
    if job.video == "always" or (job.video and not trial.success):
        write_video(video_path(bench.folder, trial), trial.frames, filming.fps)
    return dataclasses.replace(trial, frames=())


def _in_this_process(bench: Bench, jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Trial]:
    if not jobs:
        return
    rig, policy = bench.make_rig(), bench.make_policy()
    for job in itertools.takewhile(lambda _: not stop(), jobs):
        yield _one_trial(bench, rig, policy, job)


_worker: tuple[Bench, ScoredRig, Policy] | Exception | None = None  # each worker process builds its rig and policy once


def _start_worker(bench: Bench) -> None:
    global _worker
    use_one_thread()
    try:
        _worker = bench, bench.make_rig(), bench.make_policy()
    except Exception as error:  # told by the first job: an error here would only break the pool
        _worker = error


def _work(job: Job) -> Trial:
    assert _worker is not None, "the pool starts every worker with _start_worker"
    if isinstance(_worker, Exception):
        raise _worker
    return _one_trial(*_worker, job)


def _in_workers(bench: Bench, jobs: Sequence[Job], workers: int, stop: Callable[[], bool]) -> Iterator[Trial]:
    """Trials as they finish."""
    if not jobs:
        return
    count = min(workers, len(jobs))
    with worker_pool(count, _start_worker, bench) as pool:
        pending: set[Future[Trial]] = {pool.submit(_work, job) for job in jobs}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                if stop():
                    pending = {future for future in pending if not future.cancel()}
        except BrokenProcessPool:
            raise worker_died(count) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
