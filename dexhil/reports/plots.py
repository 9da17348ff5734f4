"""Plots of the reports, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2430", "#6b7686", "#e6e9ee"
COLOURS = ("#2563a8", "#d9782d", "#2a8f6a", "#8a5bb5", "#b8434e", "#5c6b7a")
_WIDTH_IN = 9.4  # so that 9 points look like the page's small print
_DPI = 160
PERCENT_TICKS = np.linspace(0, 1, 6), [f"{percent} %" for percent in range(0, 101, 20)]  # of an axis of rates


def rates_plot(score: Mapping[str, Any]) -> bytes:
    """Success rate of each task with its 95 % interval. score: as from `intervals.score`."""
    tasks = list(score["tasks"])
    figure, (axes,) = new_figure(height=0.6 + 0.42 * len(tasks))
    for row, task in enumerate(tasks):
        entry = score["tasks"][task]
        low, high = entry["interval"]
        axes.barh(row, entry["rate"], height=0.52, color=COLOURS[0], alpha=0.85)
        axes.plot([low, high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
        axes.plot([low, high], [row, row], "|", color=INK, markersize=9)
        axes.text(1.02, row, f"{entry['successes']}/{entry['trials']}", va="center", color=INK, fontsize=9)
    axes.set(xlim=(0, 1), ylim=(len(tasks) - 0.5, -0.5), yticks=range(len(tasks)), yticklabels=tasks)
    axes.set_xticks(*PERCENT_TICKS)
    axes.grid(axis="x", color=GRID)
    axes.grid(visible=False, axis="y")
    return to_png(figure)


def curves_plot(metrics: Sequence[Mapping[str, Any]], names: Sequence[str], *, log: bool = False) -> bytes:
    """The named metrics over the training step. metrics: lines of metrics.jsonl; a name may be absent from some."""
    figure, (axes,) = new_figure(height=3.2)
    for colour, name in zip(COLOURS, names, strict=False):
        draw_curve(axes, *series(metrics, name), name, colour)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.legend(frameon=False, fontsize=9)
    return to_png(figure)


def small_curves_plot(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """One small panel per metric, three to a row."""
    columns, rows = min(3, len(names)), -(-len(names) // 3)
    figure, panels = new_figure(height=1.75 * rows, rows=rows, columns=columns)
    for axes, name in zip(panels, names, strict=False):
        draw_curve(axes, *series(metrics, name), name, COLOURS[0])
        axes.set_title(name, fontsize=9, loc="left", color=INK)
        axes.tick_params(labelsize=7.5)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return to_png(figure)


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps [N], values [N]) of a metric where it is a number."""
    points = [(line["step"], line[name]) for line in metrics if isinstance(line.get(name), (int, float))]
    table = np.array(points, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def draw_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
    """A line; with markers where there are few points, pale with its running mean where there are many."""
    if len(steps) < 60:
        axes.plot(steps, values, color=colour, label=name, marker="o", markersize=3, linewidth=1.6)
        return
    window = len(steps) // 30
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps[window - 1 :], smooth, color=colour, label=name, linewidth=1.8)


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width, `height` inches high, and its panels row by row."""
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(np.ravel(np.asarray(figure.subplots(rows, columns))))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#b9c1cc")
        axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
        axes.xaxis.label.set(color=MUTED, fontsize=9)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
