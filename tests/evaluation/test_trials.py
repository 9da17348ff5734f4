"""Many trials: paired seeds, worker processes, continuing after a kill."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from dexhil.evaluation.rollout import Filming
from dexhil.evaluation.trials import Bench, outcomes, picture_path, read_trials, run_trials, video_path
from tests.evaluation.fakes import DyingPolicy, FakeRig, UpPolicy

TASKS = ("tissue", "plush")


def bench(folder: Path, **changes: object) -> Bench:
    values = {"make_policy": UpPolicy, "identity": "run/100", "videos_per_task": 1, **changes}
    return Bench(make_rig=FakeRig, folder=folder, filming=Filming(width=32, height=24), **values)  # pyright: ignore


def test_every_task_gets_the_same_seeds(tmp_path: Path):
    trials = run_trials(bench(tmp_path), TASKS, trials=3, first_seed=10, workers=0)
    assert [(t.task, t.seed) for t in trials] == [(task, seed) for task in TASKS for seed in (10, 11, 12)]
    assert outcomes(trials) == {"tissue": [True, False, True], "plush": [True, False, True]}
    assert all(picture_path(tmp_path, trial).is_file() for trial in trials)
    assert [video_path(tmp_path, trial).is_file() for trial in trials] == [True, True, False] * 2, (
        "the first, and the one that fails"
    )
    assert all(trial.frames == () for trial in trials)


def test_worker_processes_give_the_same_trials(tmp_path: Path):
    seen = []
    parallel = run_trials(
        bench(tmp_path / "workers"),
        TASKS,
        trials=2,
        first_seed=10,
        workers=2,
        on_trial=lambda trial, done, total: seen.append((done, total)),
    )
    assert parallel == run_trials(bench(tmp_path / "here"), TASKS, trials=2, first_seed=10, workers=0)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_killed_evaluation_continues(tmp_path: Path):
    stopped = run_trials(bench(tmp_path), TASKS, trials=3, first_seed=0, workers=0, stop=iter([False, True]).__next__)
    assert len(stopped) == 1
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"identity": "run/100", "tri')
    done = []
    trials = run_trials(
        bench(tmp_path), TASKS, trials=3, first_seed=0, workers=0, on_trial=lambda trial, *_: done.append(trial)
    )
    assert len(done) == 5
    assert trials == run_trials(bench(tmp_path / "whole"), TASKS, trials=3, first_seed=0, workers=0)
    assert len(read_trials(tmp_path, "run/100")) == 6


def test_trials_of_another_policy_are_not_reused(tmp_path: Path):
    run_trials(bench(tmp_path), ["plush"], trials=1, first_seed=0, workers=0)
    lazy = functools.partial(UpPolicy, goal=0.0)
    (other,) = run_trials(
        bench(tmp_path, identity="run/200", make_policy=lazy), ["plush"], trials=1, first_seed=0, workers=0
    )
    assert not other.success
    assert read_trials(tmp_path, "run/100")[0].success


def test_stopping_keeps_what_is_done(tmp_path: Path):
    trials = run_trials(bench(tmp_path), TASKS, trials=20, first_seed=0, workers=1, stop=lambda: True)
    assert len(trials) < 40
    assert read_trials(tmp_path, "run/100") != []


def test_a_dead_worker_is_explained(tmp_path: Path):
    with pytest.raises(OSError, match=r"a worker process died.* free some.* the same command continues"):
        run_trials(bench(tmp_path, make_policy=DyingPolicy), ["plush"], trials=1, first_seed=0, workers=1)
