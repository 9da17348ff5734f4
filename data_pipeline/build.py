"""Episode directories to an RLDS data set that TFDS reads: `python -m data_pipeline.build EPISODES OUT`."""

import argparse
import dataclasses
import hashlib
import itertools
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import simplejpeg

from data_pipeline.card import CARD_FILE, EpisodeSummary, make_card, to_markdown
from data_pipeline.features import rlds_example, rlds_features
from data_pipeline.mapping import DatasetError
from data_pipeline.rlds import serialize, shard_file, write_info
from data_pipeline.tensorflow_cpu import tensorflow
from dexhil.episodes.format import METADATA_FILE, STEPS_FILE, EpisodeError
from dexhil.episodes.recorder import OPEN_PREFIX, REPAIR_COMMAND, list_episodes, read_facts, read_header, read_steps

NAME = "dexhil"
SHARD_BYTES = 256 << 20  # of a file, about


@dataclasses.dataclass(frozen=True)
class Layout:
    """What all episodes of one data set share. image_shapes: camera -> (H, W, 3)."""

    robot: str
    control_hz: float
    action_dim: int
    image_shapes: dict[str, tuple[int, int, int]]


def build_dataset(
    episodes_root: Path, out: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Builds the RLDS data set `out` from the finished episodes under `episodes_root` and returns `out`.

    JPEG bytes pass through unchanged. `out` is renamed into place when whole; one of the very same episodes is kept.

    Raises:
        DatasetError: `out` holds something else, or an episode differs in robot, action width, rate or cameras.
        EpisodeError: an episode is damaged.
    """
    out, paths = Path(out), _require_episodes(Path(episodes_root))
    source = _fingerprint(paths)
    if out.exists():
        return _require_same(out, source)
    layout = _common_layout(paths)
    temporary = out.parent / f".building-{out.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        summaries = _write_shards(paths, layout, temporary, on_progress)
        card = make_card(summaries, dataclasses.asdict(layout), source)
        (temporary / CARD_FILE).write_text(json.dumps(card, indent=1))
        (temporary / "card.md").write_text(to_markdown(card))
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already where the build succeeded
    return out


def _require_episodes(root: Path) -> list[Path]:
    paths = list_episodes(root)
    if not paths:
        left = len(list(root.glob(f"{OPEN_PREFIX}*")))
        hint = f"; {left} were left open: `{REPAIR_COMMAND} {root}` salvages them" if left else ""
        raise DatasetError(f"no finished episodes under {root}{hint}")
    return paths


def _fingerprint(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + (path / METADATA_FILE).read_bytes())
    return digest.hexdigest()


def _require_same(out: Path, source: str) -> Path:
    card = out / CARD_FILE
    if card.is_file() and json.loads(card.read_text()).get("source_sha256") == source:
        return out
    raise DatasetError(f"{out} exists, was not built from these episodes; data sets are never edited: choose another")


def _read_layout(path: Path) -> Layout:
    metadata, _ = read_facts(path)
    first = next(read_steps(path))
    shapes = {}
    for camera, data in first.images.items():
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        shapes[camera] = (height, width, 3)
    return Layout(metadata.robot, read_header(path)["control_hz"], len(first.arrays["action"]), shapes)


def _common_layout(paths: Sequence[Path]) -> Layout:
    common = _read_layout(paths[0])
    for path in paths[1:]:
        layout = _read_layout(path)
        for field in dataclasses.fields(Layout):
            got, wanted = getattr(layout, field.name), getattr(common, field.name)
            if got != wanted:
                raise DatasetError(
                    f"episode {path.name} has {field.name} {got!r}, {paths[0].name} has {wanted!r}; one data set holds "
                    f"one robot with one set of cameras: keep such episodes in separate folders"
                )
    return common


def _split_into_shards(paths: Sequence[Path]) -> list[list[Path]]:
    sizes = [(path / STEPS_FILE).stat().st_size for path in paths]
    numbers = (begin // SHARD_BYTES for begin in itertools.accumulate(sizes[:-1], initial=0))
    numbered = zip(numbers, paths, strict=True)
    return [[path for _, path in shard] for _, shard in itertools.groupby(numbered, key=lambda pair: pair[0])]


def _write_shards(
    paths: Sequence[Path], layout: Layout, directory: Path, on_progress: Callable[[int, int], None]
) -> list[EpisodeSummary]:
    features = rlds_features(layout.image_shapes, layout.action_dim)
    groups = _split_into_shards(paths)
    summaries, shards = [], []
    for number, group in enumerate(groups):
        file = shard_file(directory, NAME, number, len(groups))
        with tensorflow().io.TFRecordWriter(str(file)) as writer:
            for path in group:
                metadata, _ = read_facts(path)
                steps = list(read_steps(path))
                writer.write(serialize(features, rlds_example(steps, metadata)))
                summaries.append(EpisodeSummary.of(steps, metadata))
                on_progress(len(summaries), len(paths))
        shards.append((len(group), file.stat().st_size))
    write_info(directory, NAME, features, shards)
    return summaries


def main(argv: list[str] | None = None) -> int:
    """Builds a data set from the command line; prints its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("episodes", type=Path, help="directory that a recorder wrote episodes into")
    parser.add_argument("out", type=Path, help="the data set to create")
    args = parser.parse_args(argv)
    try:
        build_dataset(
            args.episodes, args.out, on_progress=lambda done, total: print(f"built {done}/{total} episodes", flush=True)
        )
    except (DatasetError, EpisodeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((args.out / "card.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
