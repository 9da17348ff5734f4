"""The whole loop in miniature through its commands: collect, build, train, score; and what a kill -9 leaves of it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from dexhil.commands import ConfigError, read_metrics
from dexhil.config import load_config
from dexhil.episodes.recorder import list_episodes, read_facts
from dexhil.models.config import PI05_TINY
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.rig import RigConfig
from dexhil.training.checkpoints import CHECKPOINTS, CheckpointError, find_step, fingerprint, load_ema_params, load_meta
from experiments import collect, eval, online, train
from experiments.configs import sim
from tests.experiments.commands import kill_when, report_of, start
from tests.models.weight_files import random_leaves, write_npz

TASKS = ("plush", "tissue")


def collect_arguments(out: Path) -> list[str]:
    return ["--config=experiments/configs/sim.py", "--config.preset=debug", "--episodes=4", f"--out={out}"]


def train_arguments(data: Path, workdir: Path, *more: str) -> list[str]:
    return [
        "--config=experiments/configs/sim.py",
        "--config.preset=debug",
        f"--config.data.paths={data / 'rlds'}",
        f"--config.data.cache_dir={data / 'cache'}",
        f"--workdir={workdir}",
        *more,
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations per task, recorded by a command that was killed after its first episode and called again."""
    out = tmp_path_factory.mktemp("data")
    episodes = out / "episodes"
    process = start("experiments/collect.py", collect_arguments(out))
    kill_when(process, lambda: episodes.is_dir() and list_episodes(episodes))
    finished = {path.name: (path / "steps.bin").stat().st_mtime_ns for path in list_episodes(episodes)}
    collect.main(collect_arguments(out))
    for name, written in finished.items():
        assert (episodes / name / "steps.bin").stat().st_mtime_ns == written, f"{name} was recorded again"
    return out


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train.main(train_arguments(data, workdir))
    return workdir


def test_a_killed_collection_goes_on_and_loses_no_episode(data: Path) -> None:
    facts = [read_facts(path)[0] for path in list_episodes(data / "episodes")]
    for task in TASKS:
        assert sum(fact.success == 1 for fact in facts if fact.task == task) == 2
    assert report_of(data)["results"]["tasks"]["plush"]["successes"] == 2


def test_the_report_of_training_holds_every_contracted_key(trained: Path) -> None:
    report = report_of(trained)
    assert set(report) >= {"command", "config", "code_version", "seconds", "lineage", "results"}
    keys = {"steps", "samples_per_second", "final_loss", "heldout_loss_untrained", "heldout_loss", "score"}
    assert set(report["results"]) >= keys
    for task in TASKS:
        entry = report["results"]["score"]["tasks"][task]
        assert entry["trials"] == 1
        assert entry["interval"][0] <= entry["rate"] <= entry["interval"][1]
    assert "<video" in (trained / "report.html").read_text()


def test_a_killed_training_goes_on_along_the_same_loss_curve(data: Path, trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "killed"
    arguments = train_arguments(data, workdir, "--config.eval.trials=0")
    kill_when(start("experiments/train.py", arguments), lambda: (workdir / CHECKPOINTS / "2").is_dir())
    train.main(arguments)
    killed, whole = ([(line["step"], line.get("loss")) for line in read_metrics(path)] for path in (workdir, trained))
    assert killed == whole
    assert report_of(workdir)["results"]["heldout_loss"] == report_of(trained)["results"]["heldout_loss"]


def test_eval_scores_a_checkpoint_and_reuses_finished_trials(trained: Path, tmp_path: Path) -> None:
    arguments = [f"--checkpoint={trained}", "--config.preset=debug", f"--workdir={tmp_path}"]
    eval.main([*arguments, "--trials=1"])
    first = (tmp_path / "trials.jsonl").read_text()
    eval.main([*arguments, "--trials=1", f"--against={trained}"])
    assert (tmp_path / "trials.jsonl").read_text() == first
    results = report_of(tmp_path)["results"]
    assert set(results["tasks"]) == set(TASKS)
    assert results["tasks"] == report_of(trained)["results"]["score"]["tasks"]
    assert (results["against"]["mean"], results["against"]["pairs"]) == (0.0, len(TASKS))
    assert f"points against {trained}" in (tmp_path / "report.html").read_text()


def test_adapters_train_over_public_weights_and_resume_without_the_file(data: Path, tmp_path: Path) -> None:
    """A PaliGemma file of a tiny model; its tokenizer's file; the expert drawn; the tower frozen in bfloat16."""
    weights, tokenizer = tmp_path / "weights.npz", tmp_path / "tokenizer.model"
    tokenizer.write_bytes(train_tokenizer(["Grab that yellow plushie", "Pull out a napkin"]))
    model = dataclasses.replace(PI05_TINY, vocab_size=Tokenizer(tokenizer).vocab_size)
    leaves = {path: 0.1 * leaf for path, leaf in random_leaves(model).items() if "/img/" in path or "_1/" not in path}
    write_npz({path: leaf for path, leaf in leaves.items() if path.startswith("PaliGemma/")}, weights)
    arguments = [
        "--config=experiments/configs/paligemma.py",
        *train_arguments(data, tmp_path / "run", "--config.eval.trials=0")[1:],
        "--config.train.warmup_steps=1",
        "--config.train.lora.lm_rank=2",
        "--config.train.lora.expert_rank=2",
        "--config.train.freeze=PaliGemma/img",
        "--config.model.param_dtype=bfloat16",
        f"--config.model.weights={weights}",
        f"--config.model.tokenizer={tokenizer}",
    ]
    train.main([*arguments, "--config.train.steps=2"])
    trained = load_ema_params(tmp_path / "run", 2)["PaliGemma"]
    np.testing.assert_array_equal(
        trained["img"]["head"]["kernel"], leaves["PaliGemma/img/head/kernel"].astype("bfloat16")
    )
    np.testing.assert_array_equal(
        trained["llm"]["layers"]["mlp"]["gating_einsum"],
        leaves["PaliGemma/llm/layers/mlp/gating_einsum"].astype("bfloat16"),
    )
    assert load_meta(tmp_path / "run").tokenizer == tokenizer.read_bytes()
    weights.unlink()
    tokenizer.unlink()
    train.main([*arguments, "--config.train.steps=4"])
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1, 2, 3, 4]
    adapter = load_ema_params(tmp_path / "run", 4)["PaliGemma"]["llm"]["layers"]["mlp"]["gating_einsum_lora_b"]
    assert adapter.dtype == np.float32
    assert np.abs(adapter).max() > 0  # from the third step on: the expert's gates start at zero


def test_training_refuses_data_of_another_action_width(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"actions have 19 numbers, the config expects 7"):
        train.main(train_arguments(data, tmp_path, "--config.data.action_dim=7"))


def test_training_refuses_data_of_another_robot(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"robot 'fr3_dexhand021', expected 'fr3_leap'"):
        train.main(train_arguments(data, tmp_path, "--config.data.robot=fr3_leap"))


def test_training_names_a_missing_data_set(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data set at .*nowhere.*build it first"):
        train.main(train_arguments(data / "nowhere", tmp_path))


def test_an_unknown_config_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.train.learning_rte.*nearest: --config.train.learning_rate"):
        train.main([f"--workdir={tmp_path}", "--config.train.learning_rte=1e-4"])


def test_eval_names_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected the workdir of a training run"):
        eval.main([f"--checkpoint={tmp_path / 'nothing'}"])


def test_eval_refuses_a_rig_without_the_policy_s_cameras(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs cameras \['wrist'\].*add them"):
        eval.main([f"--checkpoint={trained}", "--config.rig.cameras=scene", f"--workdir={tmp_path}"])


def test_eval_names_the_nearest_task(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'plsh'.*did you mean 'plush'"):
        eval.main(
            [
                f"--checkpoint={trained}",
                "--config.preset=debug",
                "--config.rig.tasks=plsh",
                "--config.eval.workers=0",
                f"--workdir={tmp_path}",
            ]
        )


def test_collect_refuses_a_number_that_the_tasks_do_not_share(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--episodes 5: expected a multiple of the 2 tasks"):
        collect.main(["--episodes=5", f"--out={tmp_path}"])


def test_demonstrations_may_cover_less_than_the_policy_meets() -> None:
    config = sim.get_config()
    config.rig.difficulty, config.collect.coverage = 0.8, 0.25
    assert collect.demonstration_rig(config) == RigConfig(difficulty=0.2)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "run.lock"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--config.rig.image_size=32", r"holds a run that differs in rig\.image_size; choose another"),
        ("--config.collect.coverage=0.5", r"differs in collect\.coverage"),
        ("--round=1", r"holds episodes of round 0, this command's is 1; choose another --out"),
    ],
)
@pytest.mark.parametrize("recorded_before", [False, True])
def test_a_recording_that_does_not_belong_there_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, change: str, message: str, recorded_before: bool
) -> None:
    """recorded_before: by a version that kept no recording.json."""
    out = shutil.copytree(data, tmp_path / "out")
    if recorded_before:
        (out / collect.RECORDING).unlink()
    before = files(out)
    with pytest.raises(ConfigError, match=message):
        collect.main([*collect_arguments(out), change])
    assert files(out) == before


def test_a_recording_may_go_on_with_other_settings_of_training_and_workers(data: Path, tmp_path: Path) -> None:
    out = shutil.copytree(data, tmp_path / "out")
    report = report_of(out)["results"]["tasks"]
    collect.main([*collect_arguments(out), "--config.train.steps=9", "--config.collect.workers=1"])
    assert report_of(out)["results"]["tasks"] == report


def test_rollouts_of_two_policies_do_not_mix(data: Path, trained: Path, tmp_path: Path) -> None:
    """Another policy is one of other weights, wherever it lies and whatever its run is called."""
    config = sim.get_config("debug")
    first = find_step(trained)
    collect.claim(tmp_path, config, online.ACTING, round=1, policy="a/4", weights=fingerprint(first))
    moved = find_step(shutil.copytree(trained, tmp_path / "moved"))
    collect.claim(tmp_path, config, online.ACTING, round=1, policy="a/4", weights=fingerprint(moved))
    other = find_step(trained, 2)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"holds episodes of weights .*; choose another --out"):
        collect.claim(tmp_path, config, online.ACTING, round=1, policy="a/4", weights=fingerprint(other))
    with pytest.raises(ConfigError, match=r"holds episodes of policy 'a/4', this command's is 'b/4'"):
        collect.claim(tmp_path, config, online.ACTING, round=1, policy="b/4", weights=fingerprint(first))
    arguments = ["--config=experiments/configs/sim.py", "--config.preset=debug", f"--checkpoint={trained}"]
    with pytest.raises(ConfigError, match=r"holds episodes of policy 'a/4', this command's is 'uninterrupted/4'"):
        online.main([*arguments, "--episodes=2", f"--out={tmp_path}"])
    assert files(tmp_path) == before


def test_training_refuses_data_of_another_rate(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the config has 10 Hz, data set .*rlds has 20 Hz"):
        train.main(train_arguments(data, tmp_path, "--config.data.control_hz=10"))


def test_a_data_path_may_hold_a_comma_and_brackets(data: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(data / "rlds", tmp_path / "a,b (1)")
    config, _ = load_config([*train_arguments(data, tmp_path), f"--config.data.paths={[str(odd)]}"])
    assert train.make_loader(config, "all").num_samples > 0
