"""Episodes in worker processes until every task has so many that count. Which ones does not depend on the workers."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from dexhil.commands import progress, stop_requested
from dexhil.episodes.recorder import list_episodes, read_facts
from dexhil.schema import EpisodeMetadata
from dexhil.workers import worker_died, worker_pool

Done = dict[str, dict[int, bool]]  # task -> seed -> whether the episode counts


def recorded(root: Path, tasks: Sequence[str], counts: Callable[[EpisodeMetadata], bool]) -> Done:
    """What is finished under `root`; every episode is read once."""
    facts = [read_facts(path)[0] for path in list_episodes(root)]
    return {task: {fact.seed: counts(fact) for fact in facts if fact.task == task} for task in tasks}


def fill_quota(
    done: Done,
    per_task: int,
    *,
    first_seed: int,
    workers: int,
    job: Callable[[str, int], bool],
    title: str,
    max_seeds: int | None = None,
) -> Done:
    """Calls `job(task, seed)`, which says whether the episode counts, until `per_task` of each task do.

    The first `per_task` seeds come first, then one more for each that did not count. done: what an earlier call made;
    job: picklable; max_seeds: per task. Raises KeyboardInterrupt after a clean stop.
    """
    total = per_task * len(done)
    with (
        progress(total, title, start=_counted(done, per_task)) as bar,
        stop_requested("finishing the open episodes") as stopping,
        worker_pool(workers) as pool,
    ):
        try:
            while missing := _missing(done, per_task, first_seed, max_seeds):
                futures = {pool.submit(job, *key): key for key in missing}
                for future in concurrent.futures.as_completed(futures):
                    task, seed = futures[future]
                    done[task][seed] = future.result()
                    others = sum(not counts for seeds in done.values() for counts in seeds.values())
                    bar.update(_counted(done, per_task), others=others)
                    if stopping():
                        pool.shutdown(cancel_futures=True)
                        raise KeyboardInterrupt
            return done
        except BrokenProcessPool:
            if not stopping():  # else it was a worker that the Ctrl-C met before it ignored it
                raise worker_died(workers) from None
        except KeyboardInterrupt:  # the second Ctrl-C
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
    raise KeyboardInterrupt


def _counted(done: Done, per_task: int) -> int:
    return sum(min(sum(seeds.values()), per_task) for seeds in done.values())


def _missing(done: Done, per_task: int, first: int, max_seeds: int | None) -> list[tuple[str, int]]:
    wanted = []
    for task, seeds in done.items():
        count = per_task + sum(not counts for counts in seeds.values())
        count = count if max_seeds is None else min(count, max_seeds)
        wanted += [(task, seed) for seed in range(first, first + count) if seed not in seeds]
    return sorted(wanted, key=lambda item: item[1])
