"""What came of every episode of a work directory, a line each in episodes.jsonl: for reports, and for going on."""

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path

from dexhil.episodes.recorder import list_episodes, read_facts, read_header
from hardware.runtime.session import Episode

FILE = "episodes.jsonl"


@dataclasses.dataclass(frozen=True)
class Done:
    """One finished episode, as `Episode`, and its `run`: all that must be equal for episodes to be scored together."""

    task: str
    seed: int
    episode_id: str
    success: int
    ended: str
    failure: str
    seconds: float
    run: str = ""
    takeovers: int = 0
    takeover_jumps: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    release_jumps: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    control: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)
    causes: dict[str, int] = dataclasses.field(default_factory=dict)
    recorded: bool = True

    @property
    def succeeded(self) -> bool:
        return self.success == 1

    @property
    def alone(self) -> bool:
        """Whether the policy succeeded without a person."""
        return self.succeeded and not self.takeovers

    @property
    def human_seconds(self) -> float:
        """s in which a person commanded."""
        return sum(end - begin for begin, end, who in self.control if who == "person")


def done_of(episode: Episode, *, task: str, seed: int, episode_id: str, failure: str, run: str) -> Done:
    """An episode as it is kept."""
    return Done(
        task, seed, episode_id, episode.success, episode.ended, failure, episode.seconds, run,
        len(episode.jumps("takeover")), episode.jumps("takeover"), episode.jumps("release"), episode.control,
        dict(Counter(span["cause"] for span in episode.interventions)), episode.path is not None,
    )  # fmt: skip


def run_of(source: str, number: int) -> str:
    """`Done.run` of demonstrations, or of a round."""
    return f"{source} {number}"


def keep(workdir: Path, done: Done) -> None:
    """Appends it to workdir/episodes.jsonl, at once."""
    with (workdir / FILE).open("a") as file:  # after a torn line, on one of its own
        file.write("\n" * (file.tell() > 0) + json.dumps(dataclasses.asdict(done)))
        file.flush()
        os.fsync(file.fileno())


def read_done(workdir: Path, run: str | None = None) -> list[Done]:
    """All episodes of a work directory in order, or those of `run`; what a killed process left has its own facts."""
    path, root = workdir / FILE, workdir / "episodes"
    lines = path.read_text().splitlines() if path.is_file() else []
    known = [done for line in lines for done in _parse(line)]
    if run is not None:
        return [done for done in known if done.run == run]
    recorded = {folder.name: folder for folder in list_episodes(root)} if root.is_dir() else {}
    kept = [done for done in known if not done.recorded or done.episode_id in recorded]
    missing = recorded.keys() - {done.episode_id for done in kept}
    return kept + [_from_facts(recorded[name]) for name in sorted(missing)]


def _parse(line: str) -> list[Done]:
    try:
        facts = json.loads(line)
        listed = {name: [tuple(item) for item in value] for name, value in facts.items() if isinstance(value, list)}
        return [Done(**facts | listed)]
    except ValueError:
        return []


def _from_facts(path: Path) -> Done:
    metadata, facts = read_facts(path)
    seconds = facts["num_steps"] / read_header(path)["control_hz"]
    ended = {1: "success", 0: "failure"}.get(metadata.success, "interrupted")
    failure = "" if metadata.success == 1 else ended
    takeovers, jump = metadata.takeovers, metadata.max_takeover_jump
    jumps = [(jump, jump)] if takeovers and jump == jump else []
    return Done(
        metadata.task, metadata.seed, metadata.episode_id, metadata.success, ended, failure, seconds,
        run_of(metadata.source, metadata.round), takeovers=takeovers, takeover_jumps=jumps,
    )  # fmt: skip
