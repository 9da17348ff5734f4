"""Plots of a human-in-the-loop study, as PNG bytes. An arm has the same colour in each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from dexhil.evaluation.intervals import wilson
from dexhil.evaluation.study import WARMUP, Cell, OnlineEpisode, Study, mean_interval, scored_cells
from dexhil.reports.plots import COLOURS, INK, MUTED, PERCENT_TICKS, draw_curve, new_figure, series, to_png
from dexhil.reports.video import CONTROL_COLOURS, FAILURE_COLOUR, SUCCESS_COLOUR

_REASON_LETTERS = 58
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "ncols": 6, "loc": "outside upper left"}


def success_plot(study: Study) -> bytes:
    """Success rate over the rounds with 95 % Wilson intervals, a panel for the mean and for each task."""
    panels: list[str | None] = [None, *study.tasks] if len(study.tasks) > 1 else list(study.tasks)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(height=0.3 + 2.8 * rows, rows=rows, columns=columns)
    for panel, task in zip(axes, panels, strict=False):
        for number, arm in enumerate(study.arms):
            offset = 0.05 * (number - (len(study.arms) - 1) / 2)  # so that intervals stand beside each other
            _success_curve(panel, scored_cells(study, arm), task, arm, arm_colour(study, arm), offset)
        panel.set_title(task or "mean over the tasks", fontsize=9.5, loc="left", color=INK)
        panel.set(ylim=(-0.04, 1.04), xlim=(-0.25, _rounds(study) + 0.25))
        panel.set_xticks(range(_rounds(study) + 1), ["warm-up", *(f"{n}" for n in range(1, _rounds(study) + 1))])
        panel.set_yticks(*PERCENT_TICKS)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), **_LEGEND)
    figure.supxlabel("round", fontsize=9, color=MUTED)
    return to_png(figure)


def differences_plot(differences: Mapping[str, Any]) -> bytes:
    """Forest plot in points with 95 % intervals: per pair of arms the mean and, below it, each task."""
    rows = [row for name, pair in differences.items() for row in _forest_rows(name, pair)]
    figure, (axes,) = new_figure(height=0.8 + 0.3 * len(rows))
    for y, (_, entry, is_mean) in enumerate(rows):
        low, high = (100 * bound for bound in entry["interval"])
        mean, colour = 100 * entry["mean"], INK if is_mean else MUTED
        axes.plot([low, high], [y, y], color=colour, linewidth=2.2 if is_mean else 1.2, solid_capstyle="butt")
        mark, size, fill = ("D", 7, COLOURS[0]) if is_mean else ("o", 5, MUTED)
        axes.plot(mean, y, mark, color=fill, markersize=size)
        axes.annotate(
            f"{round(mean):+d}  [{round(low):+d}, {round(high):+d}]", (1.01, y), xycoords=("axes fraction", "data"),
            va="center", fontsize=8.5, color=colour,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="difference of success rates, points")
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.grid(visible=False, axis="y")
    return to_png(figure)


def losses_plot(study: Study) -> bytes | None:
    """Training loss of each arm, its rounds one after the other and their starts marked; None without any loss."""
    runs = _runs_with_loss(study)
    if not runs:
        return None
    figure, panels = new_figure(height=1.9 * len(runs) + 0.2, rows=len(runs))
    for axes, (arm, cells) in zip(panels, runs.items(), strict=True):
        _losses_of_arm(axes, cells, COLOURS[0] if arm == WARMUP else arm_colour(study, arm))
        axes.set_title("" if arm == WARMUP else arm, fontsize=9.5, loc="left", color=INK)
        axes.sharex(panels[0])
        axes.sharey(panels[0])
    panels[-1].set_xlabel("training step, round after round")
    return to_png(figure)


def labour_plot(study: Study, cumulative_seconds: Mapping[str, Sequence[float]]) -> bytes:
    """Mean success against the human time spent so far; the numbers are rounds, 0 the warm-up."""
    figure, (axes,) = new_figure(height=3.3)
    for arm in study.arms:
        cells = scored_cells(study, arm)
        minutes = np.asarray(cumulative_seconds[arm])[: len(cells)] / 60
        rates = [_rate(cell, None) for cell in cells[: len(minutes)]]
        colour = arm_colour(study, arm)
        axes.plot(minutes, rates, color=colour, marker="o", markersize=4, linewidth=1.8, label=arm)
        for number, point in enumerate(zip(minutes, rates, strict=True)):
            axes.annotate(str(number), point, xytext=(4, 5), textcoords="offset points", fontsize=8, color=colour)
    axes.set(ylim=(-0.04, 1.04), xlabel="human time so far, minutes (demonstrations and corrections)")
    axes.set_ylabel("mean success", fontsize=9, color=MUTED)
    axes.set_yticks(*PERCENT_TICKS)
    figure.legend(*axes.get_legend_handles_labels(), **_LEGEND)
    return to_png(figure)


def timeline_plot(episodes: Sequence[OnlineEpisode]) -> bytes:
    """Who is in control over the time of each supervised rollout, with the reasons of the takeovers at the right."""
    figure, (axes,) = new_figure(height=0.85 + 0.25 * len(episodes))
    longest = max(max(episode.seconds for episode in episodes), 1e-3)
    for y, episode in enumerate(episodes):
        for start, end, who in episode.control:
            axes.barh(y, end - start, left=start, height=0.66, color=_colour(CONTROL_COLOURS[who]))
        mark, colour = ("✓", SUCCESS_COLOUR) if episode.success else ("✕", FAILURE_COLOUR)
        axes.text(longest * 1.02, y, mark, va="center", ha="center", fontsize=9, color=_colour(colour))
        axes.text(longest * 1.045, y, _reasons(episode), va="center", fontsize=8, color=INK)
    for y in range(1, len(episodes)):
        if episodes[y].round != episodes[y - 1].round:
            axes.axhline(y - 0.5, color=MUTED, linewidth=0.8)
    labels = [f"round {episode.round}, {episode.task} {episode.seed}" for episode in episodes]
    axes.set(ylim=(len(episodes) - 0.4, -0.6), xlim=(0, longest * 1.75))
    axes.set_yticks(range(len(episodes)), labels)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= longest])
    axes.set_xlabel("seconds since the episode began", loc="left")
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")
    patches = [Patch(color=_colour(rgb), label=f"{who} in control") for who, rgb in CONTROL_COLOURS.items()]
    figure.legend(handles=patches, **_LEGEND)
    return to_png(figure)


def arm_colour(study: Study, arm: str) -> str:
    """The arm's colour in every plot."""
    return COLOURS[study.arms.index(arm) % len(COLOURS)]


def _success_curve(axes: Axes, cells: Sequence[Cell], task: str | None, label: str, colour: str, offset: float) -> None:
    rates = np.array([_rate(cell, task) for cell in cells])
    bounds = np.array([_interval(cell, task) for cell in cells]).reshape(-1, 2)
    places = np.arange(len(cells)) + offset
    axes.plot(places, rates, color=colour, marker="o", markersize=4.5, linewidth=1.8, label=label)
    axes.vlines(places, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.45, linewidth=2)


def _rate(cell: Cell, task: str | None) -> float:
    tasks = [task] if task else list(cell.outcomes)
    return float(np.mean([np.mean(cell.outcomes[name]) for name in tasks]))


def _interval(cell: Cell, task: str | None) -> tuple[float, float]:
    return wilson(sum(cell.outcomes[task]), len(cell.outcomes[task])) if task else mean_interval(cell)


def _rounds(study: Study) -> int:
    return max(1, *(len(scored_cells(study, arm)) - 1 for arm in study.arms))


def _forest_rows(name: str, pair: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    tasks = [(task, entry, False) for task, entry in pair["tasks"].items()]
    return [(f"{name}, round {pair['round']}", pair, True), *(tasks if len(tasks) > 1 else [])]


def _runs_with_loss(study: Study) -> dict[str, list[Cell]]:
    logged = sorted((c for c in study.cells if len(series(c.metrics, "loss")[0])), key=lambda cell: cell.round)
    arms = [arm for arm in study.arms if any(cell.arm == arm for cell in logged)]
    runs = {arm: [cell for cell in logged if cell.arm in (arm, WARMUP)] for arm in arms}
    return runs or ({WARMUP: logged} if logged else {})


def _losses_of_arm(axes: Axes, cells: Sequence[Cell], colour: str) -> None:
    end, lowest = 0.0, np.inf
    for cell in cells:
        steps, values = series(cell.metrics, "loss")
        start = end if steps[0] < end else 0.0  # a round counts its steps from 0, or goes on from the one before
        draw_curve(axes, steps + start, values, "", MUTED if cell.round == 0 else colour)
        axes.axvline(max(end, start), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6)
        name = f" round {cell.round}" if cell.round else " warm-up"
        axes.annotate(name, (end, 0.99), xycoords=("data", "axes fraction"), va="top", fontsize=8, color=MUTED)
        end, lowest = float(steps[-1] + start), min(lowest, values.min())
    if lowest > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("loss", fontsize=9, color=MUTED)


def _reasons(episode: OnlineEpisode) -> str:
    text = "; ".join(episode.reasons)
    return text if len(text) <= _REASON_LETTERS else text[: _REASON_LETTERS - 1].rstrip() + "…"


def _colour(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255
