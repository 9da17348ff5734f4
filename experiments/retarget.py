"""Trains a hand retargeter and scores it on frames that it has not seen.

    python experiments/retarget.py [--config.hand.urdf=hand.urdf] [--config.data.clips=glove.npy] [--workdir runs/NAME]
    python experiments/retarget.py --workdir runs/NAME --view glove.npy
    python experiments/retarget.py --record glove.npy [--stream tcp://localhost:8765] [--seconds 180]

WORKDIR/retargeter.npz is what teleoperation loads. --view plays a recording in a browser: the person's hand and the
robot's side by side. --record makes one from a glove's key points (needs pyzmq) and says what to show next.
"""

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.retarget())

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dexhil.commands import ConfigError, Run, load_config, progress, run_command, stop_requested
from dexhil.config import Config, read_section
from dexhil.names import check_known
from dexhil.progress import format_seconds
from dexhil.reports.retargeting import write_retargeting_report
from dexhil.retargeting import metrics, network, runtime, training
from dexhil.retargeting.config import TrainingConfig
from dexhil.retargeting.hand import Hand, simulated_dexhand021
from dexhil.retargeting.keypoints import check_keypoints, to_canonical
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.recording import Recording
from dexhil.retargeting.synthetic import Person, free_motion
from dexhil.retargeting.urdf import CARDS, load_urdf
from dexhil.retargeting.view import check_port, show
from hardware.drivers.geort_glove import stream

FILE = "retargeter.npz"
FEWEST = 100  # frames of a recording: some seconds
CHECK_AFTER = 100  # frames, before a person spends minutes on a recording in the wrong unit
STRETCHES = 5
STRANGER_SEED, STRANGER_S, STRANGER_HZ = 99, 60.0, 30.0


def main(argv: Sequence[str]) -> None:
    config, options = load_config(argv, command_options.retarget())
    if options.record:
        if not options.seconds > 0:
            raise ConfigError(f"--seconds {options.seconds:g}: expected more than 0")
        record(stream(options.stream), options.record.with_suffix(".npy"), options.seconds)
        return
    if options.view:
        check_port(options.port)
        model, clip = runtime.load(options.workdir / FILE), load_clip(options.view)
        robot = CanonicalHand(model.hand)
        show(robot, clip, mapping(model, clip), scale=training.scale_of(clip, robot), port=options.port)
        return
    run = Run(options.workdir, "retarget", config)
    run.resume(0)
    hand = load_hand(config)
    clips = {Path(path).stem: load_clip(Path(path)) for path in config.data.clips}
    if len(clips) < len(config.data.clips):
        raise ConfigError(f"data.clips: two recordings have the same name; got {', '.join(config.data.clips)}")
    held = {name: held_out(len(clip), config.data.heldout_fraction) for name, clip in clips.items()}
    learnt = [clip[~held[name]] for name, clip in clips.items()]
    model = runtime.Model(hand, train(run, hand, learnt, config), run.config)
    runtime.save(model, run.workdir / FILE)
    if not clips:
        clips = {"stranger": free_motion(np.random.default_rng(STRANGER_SEED), Person(), STRANGER_S, STRANGER_HZ)}
        held = {"stranger": np.ones(len(clips["stranger"]), bool)}
    robot, methods, scores = CanonicalHand(hand), {}, {}
    for name, clip in clips.items():
        if held[name].any():
            methods[name] = {"dexhil": mapping(model, clip)}
            scale = training.scale_of(clip, robot)
            scores[name] = {"dexhil": metrics.score(methods[name]["dexhil"], clip, robot, scale, held=held[name])}
    report = run.report({"clips": {name: {hand.name: values} for name, values in scores.items()}})
    shown = {name: clips[name][held[name]] for name in scores}
    page = write_retargeting_report(run.workdir, report, hand, shown, methods)
    for name, values in scores.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in values["dexhil"].items()))
    print(f"retargeter: {run.workdir / FILE}\nreport: {page}")


def train(run: Run, hand: Hand, clips: list[np.ndarray], config: Config) -> network.Params:
    """Trains with progress; losses go to metrics.jsonl."""
    settings = read_section(config, "train", TrainingConfig)
    with progress(sum(settings.steps), "training") as bar:

        def watch(step: int, losses: dict[str, float]) -> None:
            bar.update(step, loss=sum(losses.values()))
            run.log(step, losses)

        return training.train(hand, clips, settings, watch=watch)


def mapping(model: runtime.Model, clip: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The retargeter for the person of `clip` [T, 21, 3] m."""
    scale = training.scale_of(clip, CanonicalHand(model.hand))
    return functools.partial(model.motors, scale=scale)


def record(frames: Iterable[tuple[float, np.ndarray]], path: Path, seconds: float) -> Recording:
    """Records (time s, key points [21, 3] m) for `seconds` or until Ctrl-C, says what to show next, writes `path`.

    A source that ends or fails ends the recording: what came is kept. Raises ValueError where nothing usable came or
    it is no right hand in metres.
    """
    recording, shown, began = Recording(), "", None
    with stop_requested("saving the recording") as stop:
        try:
            for time_s, points in frames:
                began = time_s if began is None else began
                recording.add(time_s, points)
                if len(recording.frames) == CHECK_AFTER:
                    check_keypoints(np.stack(recording.frames).astype(np.float64))
                if recording.guidance != shown:
                    shown = recording.guidance
                    print(f"{format_seconds(time_s - began):>6}  {shown}", flush=True)
                if stop() or time_s - began >= seconds:
                    break
        except ValueError as error:
            if len(recording.frames) <= CHECK_AFTER:
                raise
            print(f"the recording ends early: {error}", flush=True)
    recording.save(path)
    print(", ".join(f"{name} {value:.4g}" for name, value in recording.summary().items()))
    if recording.missing:
        print(f"hardly seen: {', '.join(recording.missing)}; the retargeter will guess there, record them too")
    return recording


def load_hand(config: Config) -> Hand:
    """The robot's hand. Raises ConfigError for an unknown card, ValueError for a file that does not fit it."""
    if not config.hand.urdf:
        return simulated_dexhand021()
    check_known("hand.card", config.hand.card, CARDS)
    if not Path(config.hand.urdf).is_file():
        raise ConfigError(f"hand.urdf: no such file: {config.hand.urdf}")
    return load_urdf(config.hand.urdf, CARDS[config.hand.card])


def load_clip(path: Path) -> np.ndarray:
    """A recording [T, 21, 3] m, canonical frame, without frames that are not finite. Raises ConfigError naming it."""
    if not path.is_file():
        raise ConfigError(f"no such recording: {path}; expected a .npy file of key points [frames, 21, 3] in metres")
    try:
        with path.open("rb") as file:
            clip = np.load(file).astype(np.float64)
        check_keypoints(clip)
    except (ValueError, TypeError, EOFError, AttributeError) as error:  # another array, .npz, no or a broken one
        raise ConfigError(f"{path}: expected a .npy file of key points [frames, 21, 3] in metres: {error}") from None
    clip = clip[np.isfinite(clip).all(axis=(1, 2))]
    if len(clip) < FEWEST:
        raise ConfigError(
            f"{path}: expected {FEWEST} frames or more of a hand that moves every way, got {len(clip)}; see --record"
        )
    return to_canonical(clip)


def held_out(frames: int, fraction: float) -> np.ndarray:
    """bool [frames]: the end of each of STRETCHES equal parts of a recording, so that every gesture is scored."""
    parts = np.array_split(np.arange(frames), STRETCHES)
    return np.concatenate([np.arange(len(part)) / len(part) for part in parts]) >= 1.0 - fraction


if __name__ == "__main__":
    run_command(main)
