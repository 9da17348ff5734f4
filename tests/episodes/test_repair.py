"""Repair salvages what a killed recorder left, and touches nothing that is finished."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from dexhil.episodes.format import MAGIC, METADATA_FILE, STEPS_FILE, EpisodeError, encode_step, frame, pack_step
from dexhil.episodes.recorder import EpisodeWriter, read_episode, read_steps
from dexhil.episodes.repair import repair
from tests.episodes.made import HZ, leave_open, make_metadata, make_step, record


@pytest.mark.parametrize("cut", [1, 100, 700])
def test_a_truncated_open_episode_keeps_its_verified_prefix(tmp_path, cut):
    file = leave_open(tmp_path)
    os.truncate(file, file.stat().st_size - cut)
    assert repair(tmp_path).salvaged == {"draft": 7}
    episode = read_episode(tmp_path / "draft")
    assert [step.observation.timestamp for step in episode.steps] == [t / HZ for t in range(7)]
    assert episode.metadata.takeovers == 1


def test_a_flipped_byte_in_an_open_episode_ends_its_prefix(tmp_path):
    file = leave_open(tmp_path)
    flip(file, file.stat().st_size // 2)
    steps = repair(tmp_path).salvaged["draft"]
    assert 1 <= steps < 8
    assert len(read_episode(tmp_path / "draft").steps) == steps


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x40
    file.write_bytes(bytes(content))


def test_damage_to_a_finished_episode_is_reported_and_left(tmp_path):
    path = record(tmp_path)
    flip(path / STEPS_FILE, 2000)
    with pytest.raises(EpisodeError, match=r"ep/steps.bin: record .*(damaged|truncated)"):
        read_episode(path)
    report = repair(tmp_path)
    assert list(report.damaged) == ["ep"]
    assert "DAMAGED finished episode ep" in report.lines()[0]


def test_steps_missing_at_a_record_boundary_are_noticed(tmp_path):
    path = record(tmp_path)
    facts = json.loads((path / METADATA_FILE).read_text())
    (path / METADATA_FILE).write_text(json.dumps(facts | {"num_steps": 9}))
    with pytest.raises(EpisodeError, match=r"8 steps in steps\.bin, 9 were recorded"):
        list(read_steps(path))


def test_damaged_metadata_is_named(tmp_path):
    path = record(tmp_path)
    (path / METADATA_FILE).write_text("{")
    with pytest.raises(EpisodeError, match=r"episode.json is damaged"):
        read_episode(path)


def test_a_process_that_died_before_the_rename_keeps_its_metadata(tmp_path):
    path = record(tmp_path)
    path.rename(tmp_path / ".open-1-x")
    assert repair(tmp_path).salvaged == {"ep": 8}
    assert read_episode(path).metadata == make_metadata()


def test_metadata_of_more_steps_than_are_left_are_not_believed(tmp_path):
    path = record(tmp_path)
    os.truncate(path / STEPS_FILE, (path / STEPS_FILE).stat().st_size - 5)
    path.rename(tmp_path / ".open-1-x")
    assert repair(tmp_path).salvaged == {"salvaged-1-x": 7}
    assert read_episode(tmp_path / "salvaged-1-x").metadata.success == -1


def test_open_episodes_without_steps_or_header_do_not_stop_a_repair(tmp_path):
    EpisodeWriter(tmp_path, control_hz=HZ).__exit__()
    (tmp_path / ".open-2-x").mkdir()
    (tmp_path / ".open-3-x").mkdir()
    (tmp_path / ".open-3-x" / STEPS_FILE).write_bytes(b"not an episode")
    report = repair(tmp_path)
    assert len(report.empty) == 1
    assert sorted(report.unreadable) == [".open-2-x", ".open-3-x"]


def test_a_salvaged_episode_never_replaces_a_finished_one(tmp_path):
    record(tmp_path, episode_id="draft")
    leave_open(tmp_path, steps=3)
    assert repair(tmp_path).salvaged == {"draft-salvaged1": 3}
    assert len(read_episode(tmp_path / "draft").steps) == 8


def write_open(root: Path, header: object, steps: tuple[bytes, ...], name: str = ".open-9-x") -> None:
    """An open episode of any header and step payloads, as another program or an older version left it."""
    (root / name).mkdir()
    records = [frame(header if isinstance(header, bytes) else json.dumps(header).encode()), *map(frame, steps)]
    (root / name / STEPS_FILE).write_bytes(MAGIC + b"".join(records))


STEP = pack_step(encode_step(make_step(0), 90))


@pytest.mark.parametrize(
    ("draft", "name"),
    [
        ({**dataclasses.asdict(make_metadata("2026-01-05/run_3"))}, "2026-01-05-run_3"),
        ({**dataclasses.asdict(make_metadata("../../etc"))}, "etc"),
        ({**dataclasses.asdict(make_metadata("."))}, "salvaged-9-x"),
        ({**dataclasses.asdict(make_metadata("con"))}, "episode-con"),
        ({**dataclasses.asdict(make_metadata("y" * 300))}, "y" * 200),
        ({**dataclasses.asdict(make_metadata("a")), "episode_id": 7}, "salvaged-9-x"),
        ({"episode_id": "a"}, "salvaged-9-x"),
        ({**dataclasses.asdict(make_metadata("a")), "new_fact": 1}, "salvaged-9-x"),
        (None, "salvaged-9-x"),
        ("text", "salvaged-9-x"),
    ],
)
def test_steps_are_salvaged_under_a_plain_name_whatever_the_draft_says(tmp_path, draft, name):
    write_open(tmp_path, {"control_hz": HZ, "draft": draft}, (STEP, STEP))
    assert repair(tmp_path).salvaged == {name: 2}
    assert read_episode(tmp_path / name).metadata.success == -1
    assert repair(tmp_path).lines() == ["nothing to repair"]


def test_nothing_that_lies_in_the_directory_keeps_the_rest_from_being_salvaged(tmp_path):
    record(tmp_path, episode_id="whole")
    leave_open(tmp_path, 3)
    (tmp_path / ".open-file").write_text("no folder")
    (tmp_path / ".open-link").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".open-a-folder" / STEPS_FILE).mkdir(parents=True)
    os.mkfifo(tmp_path / ".open-a-folder" / "pipe")
    (tmp_path / ".open-pipe").mkdir()
    os.mkfifo(tmp_path / ".open-pipe" / STEPS_FILE)
    write_open(tmp_path, b"\xff not JSON", (STEP,), ".open-no-json")
    write_open(tmp_path, ["a list"], (STEP,), ".open-a-list")
    write_open(tmp_path, {"draft": None}, (b"no step",), ".open-no-step")
    write_open(tmp_path, {"draft": None}, (b"",), ".open-empty-step")
    (tmp_path / ".open-").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "no-episode").mkdir()
    (tmp_path / "a-folder" / METADATA_FILE).mkdir(parents=True)
    (tmp_path / "no-steps").mkdir()
    (tmp_path / "no-steps" / METADATA_FILE).write_text((tmp_path / "whole" / METADATA_FILE).read_text())
    for name, text in {"no-json": "{", "a-list": "[]", "no-number": '{"metadata": {}}'}.items():
        record(tmp_path, episode_id=name)
        (tmp_path / name / METADATA_FILE).write_text(text)
    report = repair(tmp_path)
    assert report.salvaged == {"draft": 3, "salvaged-a-list": 1}
    assert sorted(report.unreadable) == [
        f".open-{name}" for name in ("", "a-folder", "empty-step", "file", "link", "no-json", "no-step", "pipe")
    ]
    assert all(report.unreadable.values())
    assert sorted(report.damaged) == ["a-list", "no-json", "no-number", "no-steps"]
    assert len(read_episode(tmp_path / "whole").steps) == 8
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_finished_episode_that_lost_its_last_steps_is_reported(tmp_path):
    path = record(tmp_path)
    facts = json.loads((path / METADATA_FILE).read_text())
    (path / METADATA_FILE).write_text(json.dumps(facts | {"num_steps": 9}))
    assert repair(tmp_path).damaged == {"ep": "8 steps, 9 were recorded"}


@pytest.mark.parametrize("damage", ["{", None])
def test_damaged_metadata_of_an_open_episode_leave_its_draft(tmp_path, damage):
    file = leave_open(tmp_path)
    metadata = file.parent / METADATA_FILE
    metadata.mkdir() if damage is None else metadata.write_text(damage)
    if damage is None:  # nothing can be written there: the steps stay for a person to look at
        assert "Is a directory" in repair(tmp_path).unreadable[file.parent.name]
        assert file.is_file()
    else:
        assert repair(tmp_path).salvaged == {"draft": 8}


def test_an_open_episode_that_cannot_be_read_is_left(tmp_path, monkeypatch, capsys):
    from data_pipeline.repair import main

    file = leave_open(tmp_path)
    (tmp_path / "later").mkdir()

    def refuse(path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("dexhil.episodes.repair.os.open", refuse)
    assert main([str(tmp_path)]) == 1
    assert f"left {file.parent.name}: [Errno 13] Permission denied" in capsys.readouterr().out
    monkeypatch.setattr("data_pipeline.repair.repair", refuse)
    assert main([str(tmp_path)]) == 2
    assert "error: [Errno 13] Permission denied" in capsys.readouterr().err


def test_the_repair_command_says_what_it_did(tmp_path, capsys):
    from data_pipeline.repair import main

    leave_open(tmp_path, steps=2)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "salvaged draft: 2 steps, success not known\n"
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no directory of episodes" in capsys.readouterr().err
