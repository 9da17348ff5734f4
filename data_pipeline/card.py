"""The dataset card: what a data set holds, counted while it is built."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dexhil.episodes.format import EncodedStep
from dexhil.schema import EpisodeMetadata

CARD_FILE = "card.json"


@dataclasses.dataclass(frozen=True)
class EpisodeSummary:
    """What the card needs of one episode. actions, states: [T, A] rad; duration: s."""

    metadata: EpisodeMetadata
    actions: np.ndarray
    states: np.ndarray
    duration: float
    interventions: int
    instructions: tuple[str, ...]

    @classmethod
    def of(cls, steps: Sequence[EncodedStep], metadata: EpisodeMetadata) -> EpisodeSummary:
        """Summary of the steps of one episode."""
        return cls(
            metadata=metadata,
            actions=np.stack([step.arrays["action"] for step in steps]),
            states=np.stack([np.concatenate([step.arrays["q_arm"], step.arrays["q_hand"]]) for step in steps]),
            duration=steps[-1].timestamp - steps[0].timestamp,
            interventions=sum(step.is_intervention for step in steps),
            instructions=tuple(sorted({step.language_instruction for step in steps})),
        )


def make_card(summaries: Sequence[EpisodeSummary], layout: dict[str, Any], source_sha256: str) -> dict[str, Any]:
    """Counts and ranges of a data set, JSON-ready. Durations in seconds, ranges in radians."""
    lengths = [len(summary.actions) for summary in summaries]
    durations = np.array([summary.duration for summary in summaries])
    return {
        "source_sha256": source_sha256,
        "episodes": len(summaries),
        "steps": sum(lengths),
        "intervention_steps": sum(summary.interventions for summary in summaries),
        "takeovers": sum(int(summary.metadata.takeovers) for summary in summaries),
        **{name: _count(summaries, name) for name in ("task", "success", "source", "round", "operator", "policy")},
        "instructions": sorted({text for summary in summaries for text in summary.instructions}),
        "duration_s": {"total": durations.sum(), "mean": durations.mean(), "max": durations.max()},
        "steps_per_episode": {"min": min(lengths), "max": max(lengths)},
        **layout,
        "action_range": _ranges([summary.actions for summary in summaries]),
        "state_range": _ranges([summary.states for summary in summaries]),
    }


def _count(summaries: Sequence[EpisodeSummary], name: str) -> dict[str, dict[str, int]]:
    episodes, steps = Counter(), Counter()
    for summary in summaries:
        value = str(getattr(summary.metadata, name))
        episodes[value] += 1
        steps[value] += len(summary.actions)
    return {value: {"episodes": episodes[value], "steps": steps[value]} for value in sorted(episodes)}


def _ranges(arrays: Sequence[np.ndarray]) -> dict[str, list[float]]:
    values = np.concatenate(arrays)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    named = {"min": values.min(0), "q01": q01, "q99": q99, "max": values.max(0)}
    return {name: [round(float(x), 5) for x in row] for name, row in named.items()}


def to_markdown(card: dict[str, Any]) -> str:
    """The card for a person."""
    lines = [
        "# Data set card",
        "",
        f"{card['episodes']} episodes, {card['steps']} steps, {card['duration_s']['total']:.0f} s "
        f"(mean {card['duration_s']['mean']:.1f} s per episode) of {card['robot']} at {card['control_hz']:g} Hz.",
        f"{card['intervention_steps']} steps by a person who took over, {card['takeovers']} takeovers.",
        "",
        "| what | value | episodes | steps |",
        "|---|---|---|---|",
    ]
    for name in ("task", "success", "source", "round", "operator", "policy"):
        for value, count in card[name].items():
            lines.append(f"| {name} | {value or '-'} | {count['episodes']} | {count['steps']} |")
    cameras = ", ".join(f"{camera} {h} x {w}" for camera, (h, w, _) in card["image_shapes"].items())
    lines += ["", f"Cameras: {cameras}. Instructions: {', '.join(map(repr, card['instructions']))}."]
    lines += ["", f"| joint | {' | '.join(card['action_range'])} (action, rad) |", "|---|---|---|---|---|"]
    for joint, row in enumerate(zip(*card["action_range"].values(), strict=True)):
        lines.append(f"| {joint} | {' | '.join(f'{value:.3f}' for value in row)} |")
    return "\n".join([*lines, "", f"Source: {card['source_sha256']}", ""])
