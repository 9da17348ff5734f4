"""Pictures, videos and the page that holds them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from dexhil.commands import Run
from dexhil.evaluation.intervals import score
from dexhil.evaluation.rollout import Filming, Trial
from dexhil.evaluation.trials import Bench, outcomes, run_trials
from dexhil.reports.evaluation import failure_table, write_report
from dexhil.reports.page import Cell, Fact, Page, Section, Table, Text, key_values, render
from dexhil.reports.plots import curves_plot, rates_plot, series, small_curves_plot
from dexhil.reports.video import FAILURE_COLOUR, SUCCESS_COLOUR, contact_sheet, write_video
from tests.evaluation.fakes import FakeRig, UpPolicy

PNG = b"\x89PNG\r\n\x1a\n"


def moving_square(count: int) -> list[np.ndarray]:
    frames = [np.zeros((48, 64, 3), np.uint8) for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[10:30, i * 2 : i * 2 + 20] = (230, 40, 40)
    return frames


def test_a_video_decodes_to_its_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", moving_square(12), fps=10)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    about = subprocess.run([ffmpeg, "-i", str(path)], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264 .*yuv420p.* 64x48.* 10 fps", about)
    raw = [ffmpeg, "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = np.frombuffer(subprocess.run(raw, capture_output=True, check=True).stdout, np.uint8).reshape(
        -1, 48, 64, 3
    )
    assert len(decoded) == 12
    assert np.abs(decoded[5].astype(int) - moving_square(12)[5]).mean() < 6


def test_a_video_needs_frames_of_one_even_size(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], fps=10)
    with pytest.raises(OSError, match=r"ffmpeg could not write the video: .*No such file"):
        write_video(tmp_path / "missing" / "a.mp4", moving_square(2), fps=10)
    with pytest.raises(ValueError, match=r"one even size, got \[\(5, 8, 3\)\]"):
        write_video(tmp_path / "a.mp4", [np.zeros((5, 8, 3), np.uint8)], fps=10)


def test_a_contact_sheet_frames_each_picture_in_its_outcome():
    pictures = [np.full((60, 80, 3), 128, np.uint8)] * 3
    sheet = contact_sheet(pictures, [True, False, True], ["1", "2", "3"], columns=3, width=600)
    assert sheet.shape[1] == 600
    assert [tuple(sheet[1, x]) for x in (1, 202, 403)] == [SUCCESS_COLOUR, FAILURE_COLOUR, SUCCESS_COLOUR]
    assert tuple(sheet[70, 100]) == (128, 128, 128)


def test_plots_are_png():
    metrics = [{"step": i, "loss": 1 / (i + 1), "rate": 2.0} for i in range(100)]
    assert rates_plot(score({"plush": [True, False]})).startswith(PNG)
    assert curves_plot(metrics, ["loss"], log=True).startswith(PNG)
    assert small_curves_plot(metrics, ["loss", "rate"]).startswith(PNG)


def test_series_skips_what_is_missing_or_not_a_number():
    steps, values = series([{"step": 1, "a": 2}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": 5.0}], "a")
    assert (steps.tolist(), values.tolist()) == ([1, 4], [2, 5])


def test_failures_are_counted_per_task_most_frequent_first():
    failures = ["slipped", "missed", "missed", ""]
    trials = [Trial("plush", i, failure == "", 1.0, failure) for i, failure in enumerate(failures)]
    table = failure_table(trials)
    assert list(table.rows) == [("plush", "missed", "2 of 4"), ("plush", "slipped", "1 of 4")]
    assert table.fractions == [0.5, 0.25]


def test_text_is_escaped():
    html = render(
        Page("<b>", "a & b", [Fact("<i>", "1")], [Section("s", [Text("<script>"), Table(["<u>"], [["<p>"]])])])
    )
    assert "<script></p>" not in html
    assert "&lt;script&gt;</p>" in html
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html


def test_key_values_are_flat():
    rows = key_values({"a": {"b": 1, "c": {}}, "d": ["x", "y"], "e": None}).rows
    assert list(rows) == [("a.b", "1"), ("a.c", "none"), ("d", "x, y"), ("e", "none")]


def test_a_table_marks_missed_goals_links_to_other_runs_and_can_be_filtered():
    table = Table(["a", "b"], [[Cell("1", missed=True), Cell("run", href="../run/report.html")]], tall=True)
    html = render(Page("t", "s", [], [Section("x", [table])], made_by="python eval.py --trials 2"))
    assert '<td class="missed">1</td>' in html
    assert '<a href="../run/report.html">run</a>' in html
    assert "filterRows(this)" in html
    assert "Made by <code>python eval.py --trials 2</code>" in html


def test_lineage_links_to_the_pages_of_other_runs(tmp_path: Path):
    (tmp_path / "warmup/checkpoints/3").mkdir(parents=True)
    (tmp_path / "warmup/report.html").write_text("")
    (tmp_path / "eval").mkdir()
    table = key_values({"checkpoint": tmp_path / "warmup/checkpoints/3", "seed": 3}, tmp_path / "eval")
    rows = {str(key): value for key, value in table.rows}
    assert rows["checkpoint"] == Cell(str(tmp_path / "warmup/checkpoints/3"), href="../warmup/report.html")
    assert rows["seed"] == "3"


def evaluated(folder: Path) -> tuple[dict[str, Any], list[Trial]]:
    run = Run(folder, "eval", {"rig": {"tasks": ("plush", "tissue")}, "seed": 0})
    bench = Bench(FakeRig, UpPolicy, folder / "trials", "x", videos_per_task=1, filming=Filming(width=32, height=24))
    trials = run_trials(bench, ("plush", "tissue"), trials=3, first_seed=0, workers=0)
    return run.report(score(outcomes(trials)), lineage={"checkpoint": "runs/sim/400"}), trials


def test_an_evaluation_report_holds_everything_in_one_file(tmp_path: Path):
    report, trials = evaluated(tmp_path)
    html = write_report(tmp_path, report, trials, tmp_path / "trials").read_text()
    assert html.count("data:video/mp4;base64,") == 2 + sum(not trial.success for trial in trials if trial.seed > 0)
    assert html.count('<span class="outcome good">✓ success</span>') == 4
    assert "never reached" in html
    assert "runs/sim/400" in html
    assert "2 of 3 (95 %: 21 to 94)" in html
    assert not re.search(r"""(?:src|href|poster)="(?!data:)""", html)
    assert (tmp_path / "contact_sheet_plush.jpg").is_file()


def test_a_training_report_shows_curves_without_a_rig(tmp_path: Path):
    run = Run(tmp_path, "train", {"seed": 0})
    for step in range(0, 500, 5):
        run.log(step, {"loss": 1.0 / (step + 1), "learning_rate": 1e-3})
    run.log(500, {"heldout_loss": 0.1})
    results = {
        "steps": 500,
        "samples_per_second": 80.0,
        "final_loss": 0.02,
        "heldout_loss_untrained": 1.4,
        "heldout_loss": 0.1,
    }
    html = write_report(tmp_path, run.report(results)).read_text()
    assert "untrained 1.4" in html
    assert html.count("data:image/png") == 2
    assert "This run has no parents." in html
    assert json.loads((tmp_path / "report.json").read_text())["results"]["steps"] == 500
