"""The recorder keeps what it was told, whole or not at all, through real faults: kill -9, damage, a full disk."""

import dataclasses
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dexhil.episodes.format import (
    MAGIC,
    METADATA_FILE,
    STEPS_FILE,
    EpisodeError,
    decode_step,
    encode_step,
    frame,
    pack_step,
    unpack_step,
)
from dexhil.episodes.recorder import (
    EpisodeWriter,
    RecordingError,
    list_episodes,
    read_episode,
    read_facts,
    read_header,
    read_steps,
)
from dexhil.episodes.repair import repair
from dexhil.schema import EpisodeMetadata, Observation, SchemaError, Step

HZ = 20.0


def make_metadata(episode_id: str = "ep", **changes) -> EpisodeMetadata:
    facts = EpisodeMetadata(episode_id, "plush", 1, "offline", 0, "", "tester", "fr3_dexhand021", 3, 1, 0.25)
    return dataclasses.replace(facts, **changes)


def make_step(t: int, hand: int = 12, size: int = 32) -> Step:
    rng = np.random.default_rng(t)
    q = rng.normal(size=7 + hand).astype(np.float32)
    image = np.full((size, size, 3), (t * 5) % 255, np.uint8)
    seen = Observation({"scene": image, "wrist": image[::-1]}, q[:7], q[7:], q[:7], t / HZ, "Pull out a napkin")
    return Step(
        seen, q, np.full_like(q, np.nan), is_intervention=t >= 5, reward=float(t), discount=0.5, is_commanded=t != 3
    )


def record(root: Path, steps: int = 8, episode_id: str = "ep") -> Path:
    writer = EpisodeWriter(root, control_hz=HZ)
    for t in range(steps):
        writer.append(make_step(t))
    return writer.finish(make_metadata(episode_id))


def test_an_episode_is_read_as_it_was_recorded(tmp_path):
    path = record(tmp_path)
    episode = read_episode(path)
    assert episode.metadata == make_metadata()
    assert read_header(path)["control_hz"] == HZ
    for t, step in enumerate(episode.steps):
        told = make_step(t)
        np.testing.assert_array_equal(step.action, told.action)
        np.testing.assert_array_equal(step.policy_action, told.policy_action)
        for name in ("q_arm", "q_hand", "pose_base_ee"):
            np.testing.assert_array_equal(getattr(step.observation, name), getattr(told.observation, name))
        assert step.observation.timestamp == told.observation.timestamp
        assert (step.is_intervention, step.reward, step.discount) == (told.is_intervention, told.reward, 0.5)
        assert step.is_commanded == (t != 3)
        assert step.observation.language_instruction == "Pull out a napkin"
        for camera, image in told.observation.images.items():
            assert np.abs(step.observation.images[camera].astype(int) - image).max() <= 2
        step.validate()


def test_episodes_recorded_before_steps_said_who_commanded_are_commanded():
    payload = pack_step(encode_step(make_step(3), 90))
    older = payload.replace(b'"is_commanded": false, ', b"")
    older = (int.from_bytes(payload[:4], "little") - len(payload) + len(older)).to_bytes(4, "little") + older[4:]
    assert not unpack_step(payload).is_commanded
    assert unpack_step(older).is_commanded
    np.testing.assert_array_equal(unpack_step(older).arrays["action"], make_step(3).action)


def sha256_of(path: Path) -> str:
    return hashlib.sha256((path / STEPS_FILE).read_bytes()).hexdigest()


def test_the_facts_hold_the_hash_of_the_steps(tmp_path):
    path = record(tmp_path)
    assert read_facts(path)[1]["steps_sha256"] == sha256_of(path)
    file = leave_open(tmp_path)
    os.truncate(file, file.stat().st_size - 5)
    repair(tmp_path)
    assert read_facts(tmp_path / "draft")[1]["steps_sha256"] == sha256_of(tmp_path / "draft")


def test_an_episode_is_on_the_disk_before_it_is_visible(tmp_path, monkeypatch):
    """Its steps, its metadata and its folder's entries are synced, then it is renamed, then the folder around it is."""
    done = []
    sync, rename = os.fsync, os.rename

    def synced(file: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{file}"))
        sync(file)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"rename to {target}")
        rename(source, target)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.rename", renamed)
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    writer.finish(make_metadata())
    inside = str(writer.directory)
    files = [f"{inside}/{STEPS_FILE}", f"{inside}/{METADATA_FILE}.tmp"]
    assert done == [*files, inside, f"rename to {tmp_path / 'ep'}", str(tmp_path)]


def test_an_episode_is_invisible_until_it_is_finished(tmp_path):
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    assert list_episodes(tmp_path) == []
    assert writer.finish(make_metadata("a")) == tmp_path / "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(EpisodeError, match="has ended"):
        writer.append(make_step(1))


def test_episodes_are_listed_by_name(tmp_path):
    names = [f"ep{number * 7 % 20:02d}" for number in range(20)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / METADATA_FILE).write_text("{}")
    assert [path.name for path in list_episodes(tmp_path)] == sorted(names)


def test_thin_coloured_things_keep_their_colour():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, ::2, 0], image[:, 1::2, 2] = 200, 200  # red and blue columns of one pixel
    read = decode_step(encode_step(dataclasses.replace(
        make_step(0), observation=dataclasses.replace(make_step(0).observation, images={"scene": image})
    ), 95)).observation.images["scene"]  # fmt: skip
    assert np.abs(read.astype(int) - image).max() < 20


def test_an_abandoned_episode_leaves_nothing(tmp_path):
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    writer.abandon()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_taken_id_loses_nothing(tmp_path):
    record(tmp_path)
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    with pytest.raises(EpisodeError, match="'ep' exists already"):
        writer.finish(make_metadata("ep"))
    assert len(read_episode(writer.finish(make_metadata("ep2"))).steps) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.full(19, np.nan, np.float32)}, r"action: non-finite value nan at index \[0\]"),
        ({"action": np.zeros(18, np.float32)}, r"action: expected shape \[19\], got \[18\]"),
        ({"observation": dataclasses.replace(make_step(1).observation, timestamp=0.0)}, "expected after 0.0 s"),
        ({"observation": dataclasses.replace(make_step(1).observation, language_instruction=3)}, "expected a str"),
        ({"observation": make_step(1, size=16).observation}, "the episode began with"),
        (vars(make_step(1, hand=11)), r"'q_hand': \(11,\)}, the episode began with"),
    ],
)
def test_a_bad_step_is_refused_and_not_stored(tmp_path, change, message):
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    with pytest.raises(SchemaError, match=message):
        writer.append(dataclasses.replace(make_step(1), **change))
    writer.append(make_step(2))
    assert len(read_episode(writer.finish(make_metadata())).steps) == 2


BAD_IDS = [
    "", ".", "..", ".hidden", "a/b", "2026-01-05/run_3", "a\\b", "a b", "a\nb", "a\0b", "Tür", "end.", "x" * 201, "con",
    "NUL.1", "-", "-a", "COM3",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_episode_id_is_a_folder_name(tmp_path, bad):
    """Refused when the episode begins; at the end, where it was not said before, nothing is lost."""
    with pytest.raises(EpisodeError, match="expected a plain folder name of at most 200"):
        EpisodeWriter(tmp_path / "root", control_hz=HZ, draft=make_metadata(bad))
    assert not (tmp_path / "root").exists()
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    with pytest.raises(EpisodeError, match="expected a plain folder name"):
        writer.finish(make_metadata(bad))
    assert writer.finish(make_metadata("plain")).name == "plain"


@pytest.mark.parametrize("good", ["a", "round1-plush-0000001", "2026-01-05_run.3", "_", "x" * 200, "concert", "com33"])
def test_ids_of_every_usual_form_are_taken(tmp_path, good):
    with EpisodeWriter(tmp_path, control_hz=HZ, draft=make_metadata(good)) as writer:
        writer.append(make_step(0))
    assert repair(tmp_path).salvaged == {good: 1}


@pytest.mark.parametrize("hz", [0.0, -20.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(tmp_path, hz):
    with pytest.raises(EpisodeError, match="control_hz: expected steps per second, more than 0"):
        EpisodeWriter(tmp_path / "root", control_hz=hz)
    assert not (tmp_path / "root").exists()


def test_a_draft_that_does_not_fit_is_refused_when_the_episode_begins(tmp_path):
    with pytest.raises(SchemaError, match="success: expected 1, 0 or -1"):
        EpisodeWriter(tmp_path / "root", control_hz=HZ, draft=make_metadata(success=2))


def test_an_empty_episode_is_refused(tmp_path):
    with pytest.raises(EpisodeError, match="has no steps"):
        EpisodeWriter(tmp_path, control_hz=HZ).finish(make_metadata())


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(EpisodeError, match=r"no directory of episodes at .*nowhere"):
        list_episodes(tmp_path / "nowhere")


RECORD_FOREVER = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_recorder import EpisodeWriter, HZ, make_metadata, make_step, record
    root = Path({root!r})
    record(root, episode_id="whole")
    writer = EpisodeWriter(root, control_hz=HZ, draft=make_metadata("draft"))
    for t in range(10**6):
        writer.append(make_step(t))
        print(t + 1, flush=True)
        time.sleep(0.01)
"""


def test_kill_9_loses_no_finished_step(tmp_path):
    script = textwrap.dedent(RECORD_FOREVER.format(tests=str(Path(__file__).parent), root=str(tmp_path)))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(6)][-1]
        assert repair(tmp_path).still_recording != []  # a live recorder is left alone
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
    assert [path.name for path in list_episodes(tmp_path)] == ["whole"]
    report = repair(tmp_path)
    assert report.salvaged["draft"] >= told
    salvaged = read_episode(tmp_path / "draft")
    assert salvaged.metadata.success == -1
    assert salvaged.metadata.task == "plush"
    np.testing.assert_array_equal(salvaged.steps[told - 1].action, make_step(told - 1).action)
    assert len(read_episode(tmp_path / "whole").steps) == 8
    assert repair(tmp_path).lines() == ["nothing to repair"]


def leave_open(root: Path, steps: int = 8) -> Path:
    """An episode as a dead process leaves it; returns its steps file."""
    with EpisodeWriter(root, control_hz=HZ, draft=make_metadata("draft", takeovers=0)) as writer:
        for t in range(steps):
            writer.append(make_step(t))
    return writer.directory / STEPS_FILE


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


@pytest.fixture
def file_size_limit():
    """A way to make writes fail as on a full disk, which needs no rights: files may not grow past a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, file_size_limit):
    record(tmp_path, episode_id="earlier")
    writer = EpisodeWriter(tmp_path, control_hz=HZ, draft=make_metadata("draft"))
    for t in range(3):
        writer.append(make_step(t))
    file_size_limit((writer.directory / STEPS_FILE).stat().st_size + 500)  # the next step fits in part only
    with pytest.raises(RecordingError, match=r"disk is full .*3 steps of the open episode are saved in .*repair"):
        writer.append(make_step(3))
    file_size_limit(resource.RLIM_INFINITY)
    assert len(read_episode(tmp_path / "earlier").steps) == 8
    with pytest.raises(RecordingError, match="3 steps"):
        writer.append(make_step(4))  # a gap must not appear in the middle of an episode
    writer.__exit__()
    assert repair(tmp_path).salvaged == {"draft": 3}


def test_an_episode_that_met_a_full_disk_can_be_finished_with_what_it_has(tmp_path, file_size_limit):
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    file_size_limit((writer.directory / STEPS_FILE).stat().st_size + 500)
    with pytest.raises(RecordingError, match="1 steps"):
        writer.append(make_step(1))
    file_size_limit(resource.RLIM_INFINITY)
    assert len(read_episode(writer.finish(make_metadata())).steps) == 1


def test_a_disk_that_is_full_at_the_end_is_an_error_that_can_be_retried(tmp_path, file_size_limit):
    writer = EpisodeWriter(tmp_path, control_hz=HZ)
    writer.append(make_step(0))
    file_size_limit(20)
    with pytest.raises(RecordingError, match=r"disk is full .*1 steps of the open episode are saved"):
        writer.finish(make_metadata())
    file_size_limit(resource.RLIM_INFINITY)
    assert len(read_episode(writer.finish(make_metadata())).steps) == 1


def test_two_processes_share_a_root(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from test_recorder import record
        for number in range(5):
            record(Path(sys.argv[2]), 3, f"{sys.argv[3]}-{number}")
    """)
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    processes = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    episodes = list_episodes(tmp_path)
    assert len(episodes) == 10
    assert all(len(read_episode(path).steps) == 3 for path in episodes)
    assert not list(tmp_path.glob(".open-*"))


def test_the_repair_command_says_what_it_did(tmp_path, capsys):
    from data_pipeline.repair import main

    leave_open(tmp_path, steps=2)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "salvaged draft: 2 steps, success not known\n"
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no directory of episodes" in capsys.readouterr().err
