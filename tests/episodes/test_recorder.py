"""The recorder keeps what it was told, whole or not at all, through real faults: kill -9, damage, a full disk."""

import dataclasses
import hashlib
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
    METADATA_FILE,
    STEPS_FILE,
    EpisodeError,
    decode_step,
    encode_step,
    pack_step,
    unpack_step,
)
from dexhil.episodes.recorder import EpisodeWriter, RecordingError, list_episodes, read_episode, read_facts, read_header
from dexhil.episodes.repair import repair
from dexhil.schema import SchemaError
from tests.episodes.made import HZ, leave_open, make_metadata, make_step, record


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
