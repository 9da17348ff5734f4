"""A human-in-the-loop study in miniature: all its parts, a kill -9 in the middle, and what it refuses."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from dexhil.commands import ConfigError, read_metrics
from dexhil.config import load_config, read_config_file
from dexhil.episodes.recorder import list_episodes, read_facts
from experiments import hil
from experiments.arms import get_arm
from experiments.online import supervised_tasks
from tests.experiments.commands import kill_when, report_of, start, wait_for

HIL = "experiments/configs/hil_sim.py"
ARMS = ("dexhil", "offline")


def arguments(workdir: Path) -> list[str]:
    return [
        f"--config={HIL}",
        "--config.preset=debug",
        "--config.model.name=tiny",
        f"--config.hil.arms={','.join(ARMS)}",
        f"--workdir={workdir}",
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was killed after its first supervised rollout and called again."""
    root = tmp_path_factory.mktemp("hil") / "study"
    episodes = root / "dexhil" / "round1" / "online" / "episodes"
    process = start("experiments/hil.py", arguments(root))
    kill_when(process, lambda: episodes.is_dir() and list_episodes(episodes))
    kill_parts(root)
    hil.main(arguments(root))
    return root


def kill_parts(root: Path) -> None:
    """Kills the parts of the study under `root`, which live in process groups of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"--workdir={root}/" in (folder / "cmdline").read_text():
                os.killpg(int(folder.name), signal.SIGKILL)


def test_the_report_holds_every_contracted_key(study: Path) -> None:
    results = report_of(study)["results"]
    assert set(results) >= {"arms", "differences", "human_seconds", "max_takeover_jump"}
    for arm in ARMS:
        assert len(results["arms"][arm]) == 2  # the warm-up and a round
        assert len(results["human_seconds"][arm]) == 1
    assert set(results["differences"]) == {"dexhil-offline"}
    assert results["max_takeover_jump"] < 0.02
    assert "<video" in (study / "report.html").read_text()


def test_every_policy_knows_where_it_comes_from(study: Path) -> None:
    lineage = report_of(study / "dexhil" / "round1" / "train")["lineage"]
    assert Path(lineage["parent"]).parent.parent == study / "warmup"
    data = lineage["data"]
    assert [Path(entry["path"]).parent.name for entry in data["datasets"]] == ["round0", "online"]
    assert data["mixture"]["mode"] == "weight"
    assert data["mixture"]["counts"]["intervention"] > 0
    assert lineage["drift"]
    warmup, trained = (
        json.loads((next((study / part / "checkpoints").glob("[0-9]*")) / "meta" / "metadata").read_text())
        for part in ("warmup", "dexhil/round1/train")
    )
    assert trained["normalization"] == warmup["normalization"]


def test_a_killed_round_ends_as_an_uninterrupted_one(study: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(study, again)
    shutil.rmtree(again / "dexhil")
    hil.main(arguments(again))
    results = []
    for root in (study, again):
        rollouts = list_episodes(root / "dexhil/round1/online/episodes")
        recorded = {path.name: read_facts(path)[1]["steps_sha256"] for path in rollouts}
        losses = [(line["step"], line.get("loss")) for line in read_metrics(root / "dexhil/round1/train")]
        results.append((recorded, losses))
    assert results[0] == results[1]


def test_a_finished_study_runs_nothing_again(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hil.main(arguments(study))
    assert "== part" not in capsys.readouterr().out


def test_only_the_last_round_gets_the_final_trials(tmp_path: Path) -> None:
    config = read_config_file(Path(HIL))
    arms = {name: get_arm(name) for name in config.hil.arms}
    _, chains = hil.plan(config, tmp_path, arms, ())
    for parts in chains.values():
        trials = [part.arguments[-1] for part in parts if part.script == "train.py"]
        expected = [config.eval.trials] * (config.hil.rounds - 1) + [config.hil.final_trials]
        assert trials == [f"--config.eval.trials={count}" for count in expected]


def test_a_study_may_start_from_a_policy_trained_before(tmp_path: Path) -> None:
    config = read_config_file(Path(HIL))
    before = "--config.train.init_from=pretrained"
    first, chains = hil.plan(config, tmp_path, {"dexhil": get_arm("dexhil")}, (before,))
    trained = [part for part in [*first, *chains["dexhil"]] if part.script == "train.py"]
    starts = [[text for text in part.arguments if text.startswith("--config.train.init_from=")][-1] for part in trained]
    parents = [part.folder for part in trained[:-1]]
    assert starts == [before, *(f"--config.train.init_from={parent}" for parent in parents)]


def test_a_stop_ends_the_running_part_and_starts_no_other(study: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(study, again)
    for name in ARMS:
        shutil.rmtree(again / name)
    settings = json.loads((again / "config.json").read_text())
    settings["hil"]["jobs"] = 2  # as if it had begun so
    (again / "config.json").write_text(json.dumps(settings))
    process = start("experiments/hil.py", [*arguments(again), "--config.hil.jobs=2"])
    wait_for(process, lambda: all((again / name / "round1").is_dir() for name in ARMS))
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert not [path for path in again.glob("*/round1/*/report.json") if "demonstrations" not in str(path)]
    hil.main([*arguments(again), "--config.hil.jobs=2"])
    assert report_of(again)["results"]["arms"] == report_of(study)["results"]["arms"]


def test_a_part_that_an_earlier_call_left_running_is_waited_for(study: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(study, again)
    shutil.rmtree(again / "offline")
    process = start("experiments/hil.py", arguments(again))
    log = again / "offline/round1/train/metrics.jsonl"
    kill_when(process, log.is_file)
    began = log.stat().st_ino
    hil.main(arguments(again))
    assert log.stat().st_ino == began, "the part was started a second time"
    assert report_of(again)["results"]["arms"] == report_of(study)["results"]["arms"]


@pytest.mark.parametrize("change", ["hil.per_round", "hil.jobs"])
def test_the_folder_of_another_study_is_refused(study: Path, change: str) -> None:
    """Jobs too: with a core each, trainings sum in another order, and rounds would differ from what was begun."""
    with pytest.raises(ConfigError, match=rf"holds a run that differs in {change}; choose another or delete it"):
        hil.main([*arguments(study), f"--config.{change}=2"])


def test_what_only_a_second_round_shows(tmp_path: Path) -> None:
    """D^i = D^{i-1} + new data (DexHiL eq. 9), each round from the last one's policy, on starts of its own."""
    config = read_config_file(Path(HIL))
    assert config.hil.rounds >= 2
    arms = {name: get_arm(name) for name in ("dexhil", "dagger", "offline")}
    first, chains = hil.plan(config, tmp_path, arms, ())
    warmup = str(tmp_path / "demonstrations/round0/rlds")
    for name, parts in chains.items():
        trainings = [options_of(part) for part in parts if part.script == "train.py"]
        if arms[name].online:
            new = [str(tmp_path / name / f"round{number}/online/rlds") for number in (1, 2, 3)]
        else:
            new = [str(tmp_path / f"demonstrations/round{number}/rlds") for number in (1, 2, 3)]
        assert [options["data.paths"] for options in trainings] == [str([warmup, *new[:count]]) for count in (1, 2, 3)]
        assert {options["data.mixture.mode"] for options in trainings} == {"weight" if name == "dexhil" else "uniform"}
        assert {options["data.filter"] for options in trainings} == {"corrections"}
        parents = [str(tmp_path / "warmup"), *(str(tmp_path / name / f"round{number}/train") for number in (1, 2))]
        assert [options["train.init_from"] for options in trainings] == parents
        supervised = [options_of(part) for part in parts if part.script == "online.py"]
        assert [options["checkpoint"] for options in supervised] == (parents if arms[name].online else [])
        assert [options["round"] for options in supervised] == (["1", "2", "3"] if arms[name].online else [])
    for key, parts in (("online.first_seed", chains["dexhil"]), ("collect.first_seed", first)):
        seeds = [int(options[key]) for part in parts if key in (options := options_of(part))]
        start = config.online.first_seed if "online" in key else config.collect.first_seed - hil.SEEDS_PER_ROUND
        assert seeds == [start + number * hil.SEEDS_PER_ROUND for number in range(1, len(seeds) + 1)]
        assert len(seeds) == (3 if "online" in key else 4)


def options_of(part: hil.Part) -> dict[str, str]:
    """The part's options by name, without `--` and `config.`."""
    pairs = (text.removeprefix("--").removeprefix("config.").partition("=") for text in part.arguments)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hil.jobs=0", r"hil\.jobs 0: expected at least 1"),
        ("hil.arms=dexhil,dexhil", "'dexhil' is named 2 times"),
        ("rig.surroundings=2.0", r"rig\.surroundings 2\.0: expected a fraction from 0 to 1"),
        ("rig.control_hz=2000.0", r"rig\.control_hz 2000\.0: expected more than 0 and at most"),
        ("hil.round_warmup_steps=2", r"hil\.round_warmup_steps 2: expected fewer than round_steps = 2"),
        ("collect.workers=0", r"collect\.workers 0: expected at least 1"),
        ("collect.coverage=1.5", r"collect\.coverage 1\.5: expected a fraction from 0 to 1"),
        ("online.person.skill=0.0", r"online\.person\.skill 0\.0: expected more than 0"),
        ("online.person.retargeter=none.npz", r"none\.npz: no such file"),
        ("train.init_from=nowhere", "nowhere: no folder 'checkpoints' there"),
        ("online.tasks=plush", "a study supervises every task"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hil.main([*arguments(tmp_path), f"--config.{change}"])
    assert not (tmp_path / "config.json").exists()


def test_an_arm_of_a_task_that_the_rig_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task of arm 'plush_only' 'plush' is not known"):
        hil.main([*arguments(tmp_path), "--config.hil.arms=plush_only", "--config.rig.tasks=tissue"])


def test_another_arm_may_be_named_in_the_folder_of_a_finished_study(study: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(study, again)
    hil.main([*arguments(again), "--config.hil.arms=dexhil,offline,dagger"])
    results = report_of(again)["results"]
    assert set(results["differences"]) == {"dexhil-offline", "dexhil-dagger"}
    assert results["arms"]["dexhil"] == report_of(study)["results"]["arms"]["dexhil"]
    demonstrated = [read_facts(path)[0].round for path in list_episodes(again / "demonstrations/round1/episodes")]
    assert set(demonstrated) == {1}


def test_an_arm_may_correct_one_task_alone(tmp_path: Path) -> None:
    config = read_config_file(Path(HIL))
    part = hil.arm_parts(config, tmp_path, "plush_only", get_arm("plush_only"), [1], ())[0]
    assert {"--config.online.tasks=plush", f"--episodes={config.hil.per_round}"} <= set(part.arguments)
    loaded, _ = load_config([f"--config={HIL}", "--config.online.tasks=plush"])
    assert supervised_tasks(loaded) == ("plush",)
    assert supervised_tasks(config) == ("plush", "tissue")
    loaded.online.tasks = ("plusch",)
    with pytest.raises(ValueError, match=r"online\.tasks: 'plusch' is not known; did you mean 'plush'"):
        supervised_tasks(loaded)


def test_an_unknown_arm_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'daggr' is not known; did you mean 'dagger'"):
        hil.main([*arguments(tmp_path), "--config.hil.arms=dexhil,daggr"])


def test_a_config_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no section .hil., which this command needs; start from .*hil_sim.py"):
        hil.main(["--config=experiments/configs/sim.py", f"--workdir={tmp_path}"])


def test_a_part_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "demonstrations" / "round0").mkdir(parents=True)
    (tmp_path / "demonstrations" / "round0" / "episodes").write_text("in the way of the folder")
    with pytest.raises(ConfigError, match=r"round 0: demonstrations failed with exit status 2.*The part alone: python"):
        hil.main(arguments(tmp_path))
