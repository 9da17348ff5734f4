"""Sweeps with a fake train.py: what runs, what is kept, what is refused before anything runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dexhil.commands import ConfigError
from experiments import sweep
from experiments.configs import sim

CONFIG = "--config=experiments/configs/sim.py"
ROOT = Path(__file__).resolve().parents[2]
FAILING, HANGING = 0.3, 0.2  # learning rates

# What train.py does as far as a sweep can tell. `starts` counts its calls; the hanging one waits for a file `go`.
FAKE_TRAIN = f"""
import json, os, pathlib, signal, sys, time
values = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
workdir, rate = pathlib.Path(values["workdir"]), float(values.get("config.train.learning_rate", 1))
signal.signal(signal.SIGTERM, lambda *_: ((workdir / "saved").touch(), sys.exit(130)))
(workdir / "metrics.jsonl").write_text(json.dumps({{"step": 1, "seconds": 0.1}}) + "\\n")
(workdir / "pid").write_text(str(os.getpid()))
with (workdir / "starts").open("a") as file:
    file.write("x")
if rate == {FAILING}:
    print("step 1: fine\\nstep 2: the loss is not finite")
    sys.exit(3)
while rate == {HANGING} and not (workdir.parent / "go").exists():
    time.sleep(0.02)
task = {{"successes": 1, "trials": 2, "rate": 0.5, "interval": [0.1, 0.9]}}
results = {{"final_loss": rate, "heldout_loss": 2 * rate, "score": {{"tasks": {{"plush": task}}, "mean_rate": 0.5}}}}
(workdir / "report.json").write_text(json.dumps({{"seconds": 7.0, "results": results}}))
"""


@pytest.fixture
def fake(tmp_path: Path) -> str:
    (tmp_path / "fake_train.py").write_text(FAKE_TRAIN)
    return str(tmp_path / "fake_train.py")


@pytest.fixture
def sweep_of(tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a sweep over what the file's get_sweep() returns; its folder is tmp_path / "runs"."""

    def write(points: object, *more: str) -> list[str]:
        file = tmp_path / "points.py"
        file.write_text(f"def get_sweep():\n    return {points!r}\n")
        return [CONFIG, f"--sweep={file}", f"--workdir={tmp_path / 'runs'}", *more]

    return write


def rates(*values: float) -> dict[str, list[float]]:
    return {"train.learning_rate": list(values)}


def folder(tmp_path: Path, rate: float) -> Path:
    return tmp_path / "runs" / f"train.learning_rate={rate}"


def starts(tmp_path: Path) -> dict[str, int]:
    return {path.parent.name: len(path.read_text()) for path in (tmp_path / "runs").glob("*/starts")}


def results(tmp_path: Path) -> list[dict]:
    return json.loads((tmp_path / "runs" / "report.json").read_text())["results"]["trials"]


def start_sweep(arguments: list[str], fake: str) -> subprocess.Popen:
    code = (
        "import sys; from dexhil.commands import run_command; from experiments import sweep; "
        f"run_command(lambda arguments: sweep.main(arguments, {fake!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def test_a_grid_is_every_combination() -> None:
    assert sweep.grid({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]


def test_a_grid_runs_and_reports_every_combination(tmp_path, fake, sweep_of, capsys) -> None:
    sweep.main(sweep_of(rates(0.1, 0.4) | {"train.batch_size": [8, 16]}, "--workers=4"), fake)
    rows = results(tmp_path)
    assert [(row["overrides"]["train.learning_rate"], row["overrides"]["train.batch_size"]) for row in rows] == [
        (0.1, 8),
        (0.1, 16),
        (0.4, 8),
        (0.4, 16),
    ]
    assert all(row["status"] == "finished" and row["seconds"] == 7.0 for row in rows)
    assert [row["heldout_loss"] for row in rows] == [0.2, 0.2, 0.8, 0.8]
    assert rows[0]["score"]["tasks"]["plush"]["interval"] == [0.1, 0.9]
    text, page = capsys.readouterr().out, (tmp_path / "runs" / "report.html").read_text()
    assert re.search(r"0\.4 +16 +finished +0\.4 +0\.8 +50 % \(10 to 90\) +7\n", text)
    assert "50 % (10 to 90)" in page
    assert "train.batch_size" in page


def test_the_report_has_the_usual_form(tmp_path, fake, sweep_of) -> None:
    sweep.main(sweep_of(rates(0.1), "--config.seed=5"), fake)
    report = json.loads((tmp_path / "runs" / "report.json").read_text())
    assert set(report) == {"command", "config", "code_version", "seconds", "lineage", "results", "invocation"}
    assert report["command"] == "sweep"
    assert report["config"]["seed"] == 5


def test_a_list_runs_its_overrides_and_an_empty_one_is_the_config_itself(tmp_path, fake, sweep_of) -> None:
    sweep.main(sweep_of([{"train.learning_rate": 0.1}, {"data.delta_dims": (0, 1)}, {}]), fake)
    assert [row["name"] for row in results(tmp_path)] == ["train.learning_rate=0.1", "data.delta_dims=0,1", "base"]


def test_trials_get_the_overrides_of_the_command_line_and_a_preset_applies_first(sweep_of, tmp_path) -> None:
    trial, other = sweep.make_trials(
        Path(sweep_of([{"train.learning_rate": 0.1}, {"preset": "debug"}])[1].removeprefix("--sweep=")),
        [CONFIG, "--config.seed", "5"],
        tmp_path,
        "train.py",
    )
    assert (trial.config.seed, trial.config.train.learning_rate, trial.config.preset) == (5, 0.1, "default")
    assert (other.config.seed, other.config.train.steps) == (5, 4)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            {"train.learning_rte": [0.1]},
            r"points.py: --config.train.learning_rte.*nearest: --config.train.learning_rate",
        ),
        (
            [{"train.learning_rate": 0.1}, {"train.steps": "many"}],
            rf"train.steps=many: expected int such as {sim.get_config().train.steps}\b",
        ),
        ({"train.steps": [1.5]}, r"train.steps=1.5: expected int"),
        ({"model.name": [3]}, r"model.name=3: expected text, got int; write '3'"),
        ({"train.steps": 5}, r"train.steps: expected a list of values, got 5; write \[5\]"),
        ({"model.name": "tiny"}, r"model.name: expected a list of values, got 'tiny'"),
        ([], r"expected at least one trial"),
        ("tiny", r"expected a dict of lists or a list of dicts, got 'tiny'"),
        ({"train.learning_rate": [0.1, 0.1]}, r"2 trials are called train.learning_rate=0.1; make their values differ"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(points, message, tmp_path, fake, sweep_of) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep.main(sweep_of(points), fake)
    assert not (tmp_path / "runs").exists()


def test_a_missing_sweep_names_those_there_are(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.py: no such file; available: .*sweeps/learning_rate.py"):
        sweep.main([CONFIG, f"--sweep={tmp_path / 'nowhere.py'}"])


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "experiments/sweeps").glob("*.py")])
def test_the_shipped_sweeps_fit_the_shipped_config(name: str, tmp_path) -> None:
    trials = sweep.make_trials(ROOT / f"experiments/sweeps/{name}.py", [CONFIG], tmp_path, "train.py")
    assert len(trials) > 1


def test_a_failed_trial_is_named_with_its_last_lines_and_the_others_finish(tmp_path, fake, sweep_of) -> None:
    message = r"1 of 3 trials failed\n.*learning_rate=0.3: the end of .*log.txt:(\n.*)*the loss is not finite"
    with pytest.raises(SystemExit, match=message):
        sweep.main(sweep_of(rates(FAILING, 0.1, 0.4)), fake)
    assert [row["status"] for row in results(tmp_path)] == ["failed", "finished", "finished"]
    assert results(tmp_path)[0]["log"][-1] == "step 2: the loss is not finite"
    assert results(tmp_path)[0]["final_loss"] is None
    assert "the loss is not finite" in (tmp_path / "runs" / "report.html").read_text()


def test_the_same_command_again_runs_only_what_is_not_finished(tmp_path, fake, sweep_of) -> None:
    arguments = sweep_of(rates(FAILING, 0.1))
    for _ in range(2):
        with pytest.raises(SystemExit):
            sweep.main(arguments, fake)
    assert starts(tmp_path) == {"train.learning_rate=0.3": 2, "train.learning_rate=0.1": 1}


def test_results_of_another_config_are_refused(tmp_path, fake, sweep_of) -> None:
    arguments = sweep_of(rates(0.1))
    folder(tmp_path, 0.1).mkdir(parents=True)
    (folder(tmp_path, 0.1) / "config.json").write_text(json.dumps({"seed": 3}))
    with pytest.raises(ConfigError, match=r"learning_rate=0.1: holds a run that differs in .*seed.*choose another"):
        sweep.main(arguments, fake)


def test_after_a_kill_the_same_command_waits_for_the_trial_that_still_runs(tmp_path, fake, sweep_of, capfd) -> None:
    arguments = sweep_of(rates(0.1, HANGING, 0.4))
    killed = start_sweep(arguments, fake)
    wait_for((folder(tmp_path, HANGING) / "starts").is_file)
    killed.kill()
    killed.wait()
    again = start_sweep(arguments, fake)
    wait_for(lambda: "still running since an earlier call" in capfd.readouterr().err)
    (tmp_path / "runs" / "go").touch()
    assert again.wait() == 0
    assert set(starts(tmp_path).values()) == {1}
    assert all(row["status"] == "finished" for row in results(tmp_path))


def test_after_a_kill_of_everything_the_same_command_goes_on(tmp_path, fake, sweep_of) -> None:
    arguments = sweep_of(rates(0.1, HANGING, 0.4))
    killed = start_sweep(arguments, fake)
    wait_for((folder(tmp_path, HANGING) / "starts").is_file)
    killed.kill()
    killed.wait()
    os.kill(int((folder(tmp_path, HANGING) / "pid").read_text()), signal.SIGKILL)
    (tmp_path / "runs" / "go").touch()
    sweep.main(arguments, fake)
    assert starts(tmp_path) == {f"train.learning_rate={rate}": count for rate, count in ((0.1, 1), (0.2, 2), (0.4, 1))}


def test_ctrl_c_lets_the_running_trial_save_and_the_same_command_goes_on(tmp_path, fake, sweep_of) -> None:
    arguments = sweep_of(rates(HANGING, 0.4))
    interrupted = start_sweep(arguments, fake)
    wait_for((folder(tmp_path, HANGING) / "starts").is_file)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait() == 130
    assert (folder(tmp_path, HANGING) / "saved").is_file()
    assert starts(tmp_path) == {"train.learning_rate=0.2": 1}
    assert not (tmp_path / "runs" / "report.json").exists()
    (tmp_path / "runs" / "go").touch()
    sweep.main(arguments, fake)
    assert starts(tmp_path) == {"train.learning_rate=0.2": 2, "train.learning_rate=0.4": 1}


def test_no_worker_is_refused(sweep_of, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sweep.main(sweep_of(rates(0.1), "--workers=0"))
    assert "--workers: 0: expected at least 1" in capsys.readouterr().err


def test_slurm_without_submitit_names_the_extra(sweep_of, fake, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"submitit is not installed; install the extra slurm: .*'\.\[slurm\]'"):
        sweep.main(sweep_of(rates(0.1), "--launcher=slurm"), fake)


def test_slurm_jobs_finish_and_fail_like_local_trials(tmp_path, fake, sweep_of) -> None:
    pytest.importorskip("submitit")
    arguments = sweep_of(rates(0.1, FAILING), "--launcher=slurm", "--slurm=partition=gpu", "--slurm=gpus_per_node=0")
    with pytest.raises(SystemExit, match=r"1 of 2 trials failed(\n.*)*the loss is not finite"):
        sweep.main(arguments, fake, cluster="local")
    assert [row["status"] for row in results(tmp_path)] == ["finished", "failed"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("partition", r"--slurm partition: expected KEY=VALUE"),
        ("partitio=gpu", r"Unknown argument 'partitio'.*partition"),
    ],
)
def test_a_wrong_slurm_setting_is_refused(setting, message, tmp_path, fake, sweep_of) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match=message):
        sweep.main(sweep_of(rates(0.1), "--launcher=slurm", f"--slurm={setting}"), fake, cluster="local")
    assert not starts(tmp_path)
