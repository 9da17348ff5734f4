"""Trains a policy on RLDS data and scores it where the config has a rig.

    python experiments/train.py --config experiments/configs/sim.py [--config.a.b=v] [--workdir runs/NAME]

The same command again goes on from the last checkpoint, on the same loss curve. Reads top to bottom: data, model,
optimiser, loop, report.
"""

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.train())

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline.config import DataConfig
from data_pipeline.drift import newest_data_drift
from data_pipeline.loader import Loader
from data_pipeline.mapping import get_mapping
from data_pipeline.mixture import mixture_table
from dexhil.commands import Run, code_version, load_config, progress, run_command, stop_requested
from dexhil.config import Config, read_section
from dexhil.evaluation.intervals import score
from dexhil.evaluation.trials import outcomes
from dexhil.fit import check_kinematics, known_joint_names
from dexhil.models.config import VLAConfig, get_model_config
from dexhil.models.inputs import check_instructions, model_inputs
from dexhil.models.lora import readapt
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.models.vla import flow_loss, init_params
from dexhil.models.weights.load import load_params
from dexhil.reports.evaluation import write_report
from dexhil.robots.spec import ROBOTS
from dexhil.training.checkpoints import (
    CheckpointMeta,
    Checkpoints,
    check_compatible,
    find_step,
    load_ema_params,
    load_meta,
    load_train_state,
)
from dexhil.training.config import TrainConfig
from dexhil.training.distributed import any_process, initialise, leave, process_dir
from dexhil.training.optimizer import make_optimizer, schedule
from dexhil.training.partition import frozen_paths
from dexhil.training.sharding import make_mesh, place_batch, to_device
from dexhil.training.step import (
    TrainState,
    check_finite,
    make_eval_loss,
    make_state,
    make_train_step,
    policy_params,
    start_from,
)
from dexhil.transforms.normalization import Normalization, fit_normalization
from experiments.curves import Curves, summary
from experiments.eval import check_acts, evaluate, print_rates

# Settings of `data` that the loader takes as they are.
PASSED_ON = (
    *("cameras", "image_size", "chunk", "heldout_fraction", "filter", "mixture"),
    *("cache_dir", "robot", "action_dim", "control_hz"),
)
HELDOUT_BATCHES = 16  # at most, the same ones every time

Inputs = Callable[[dict[str, Any]], dict[str, Any]]


def main(argv: Sequence[str]) -> None:
    config, options = load_config(argv, command_options.train())
    initialise(os.environ)
    workdir, mesh = options.workdir, make_mesh(config.train.mesh.fsdp)
    run = Run(process_dir(workdir), "train", config)
    data = make_loader(config, "train")
    check_kinematics(data.robot, config.data.action_space)
    texts = instructions(config, data)
    print(mixture_table(data.mixture.card()))
    with Checkpoints(workdir) as checkpoints:
        resuming = bool(checkpoints.steps())
        meta = load_checked_meta(config, workdir, data) if resuming else make_meta(config, run, data, texts)
        if scored(config):
            check_acts(config, meta.interface, meta.model)  # before the hours of training, not after
        tokenizer = Tokenizer(meta.tokenizer)
        check_instructions(texts, tokenizer, meta.model)

        def inputs(batch: dict[str, Any]) -> dict[str, Any]:
            return place_batch(mesh, model_inputs(batch, meta.normalization, tokenizer, meta.model))

        weights = "" if resuming or config.train.init_from else config.model.weights
        state, train_step = make_training(config, meta, mesh, weights)
        if resuming:
            state = load_train_state(workdir, like=state)
        elif config.train.init_from:
            state = start_from(load_parent(config, meta), state)
        run.resume(int(state.step))
        heldout_loss = make_heldout_loss(config, meta, inputs)
        if not resuming:
            run.log(0, {"heldout_loss": heldout_loss(policy_params(state))})
        state = train(
            config, run, meta, data.iterate(int(state.step)), inputs, state, train_step, heldout_loss, checkpoints
        )
    leave()
    if jax.process_index():
        return
    results, trials, media = summary(run, config.train.steps), [], workdir / "eval"
    if scored(config):
        trials = evaluate(config, workdir, media)
        results |= {"score": score(outcomes(trials)), "outcomes": outcomes(trials)}
        print_rates(results["score"])
    report = run.report(results, lineage=meta.lineage)
    print(f"report: {write_report(run.workdir, report, trials, media if trials else None)}")


def scored(config: Config) -> bool:
    """Whether the policy is evaluated after training."""
    return "rig" in config and "eval" in config and bool(config.eval.trials)


def make_loader(config: Config, split: str) -> Loader:
    """The training or held-out part of the config's data sets."""
    data = read_section(config, "data", DataConfig)
    return Loader(
        data.paths, get_mapping(data.mapping), batch_size=config.train.batch_size, seed=config.seed, split=split,
        episode_filter={"success": data.success}, episodes_per_task=data.episodes_per_task or None,
        host=jax.process_index(), num_hosts=jax.process_count(), **{name: getattr(data, name) for name in PASSED_ON},
    )  # fmt: skip


def instructions(config: Config, data: Loader) -> set[str]:
    """Every instruction that the policy is to read: of the held-out episodes too."""
    return data.instructions() | (
        make_loader(config, "heldout").instructions() if config.data.heldout_fraction else set()
    )


def make_meta(config: Config, run: Run, data: Loader, texts: set[str]) -> CheckpointMeta:
    """A new run's tokenizer, model and norm statistics: made from its data, or those of the run it goes on from."""
    lineage = {"data": data.card(), "parent": None, "code_version": code_version()}
    if config.train.init_from:
        parent = load_meta(config.train.init_from)
        model = model_config(config, parent.normalization, Tokenizer(parent.tokenizer))
        base = dataclasses.replace(parent, model=parent.model.base())
        check_data(config, base, data, model.base())
        drift = newest_data_drift(data, parent.normalization)
        lineage |= {"parent": str(find_step(config.train.init_from)), "drift": drift}
        return dataclasses.replace(parent, model=model, config=run.config, lineage=lineage)
    own = config.model.tokenizer
    tokenizer = Tokenizer(own).model_bytes if own else train_tokenizer(texts)
    stats = normalization(config, data)
    return CheckpointMeta(
        robot=data.robot, control_hz=config.data.control_hz, model=model_config(config, stats, Tokenizer(tokenizer)),
        normalization=stats, tokenizer=tokenizer, config=run.config, lineage=lineage,
        joint_names=known_joint_names(data.robot, stats.recorded_dims["actions"]),
    )  # fmt: skip


def load_checked_meta(config: Config, workdir: str | Path, data: Loader) -> CheckpointMeta:
    """What a run's checkpoint says. Raises CheckpointError where the config asks for something else."""
    meta = load_meta(workdir)
    model = model_config(config, meta.normalization, Tokenizer(meta.tokenizer))
    check_data(config, meta, data, model)
    return dataclasses.replace(meta, model=model)


def check_data(config: Config, meta: CheckpointMeta, data: Loader, model: VLAConfig) -> None:
    """Raises CheckpointError where the checkpoint is of other data or another model."""
    wanted = config.data
    check_compatible(
        meta, robot=data.robot, action_space=wanted.action_space, model=model, control_hz=wanted.control_hz
    )


def model_config(config: Config, stats: Normalization, tokenizer: Tokenizer) -> VLAConfig:
    """The named model, at the sizes that data and tokenizer ask for, with the adapters of the config."""
    model, lora = get_model_config(config.model.name), config.train.lora
    return dataclasses.replace(
        model,
        lm=dataclasses.replace(model.lm, lora_rank=lora.lm_rank, lora_scale=lora.scale),
        expert=dataclasses.replace(model.expert, lora_rank=lora.expert_rank, lora_scale=lora.scale),
        insulate=config.model.insulate,
        image_size=config.data.image_size,
        cameras=tuple(config.data.cameras),
        vocab_size=tokenizer.vocab_size,
        max_tokens=config.model.max_tokens,
        action_dim=stats.actions.dim,
        state_dim=stats.state.dim,
        chunk=config.data.chunk,
        dtype="bfloat16" if config.train.bfloat16 else "float32",
        param_dtype=config.model.param_dtype,
        rtc_max_delay=config.train.rtc_max_delay,
    )


def normalization(config: Config, data: Loader) -> Normalization:
    """Statistics of the training data, frozen from here on."""
    chunks, mask = data.chunks(np.arange(data.num_samples))
    settings = {name: config.data[name] for name in ("delta_dims", "action_space", "min_range", "min_range_m")}
    names = ROBOTS[data.robot].joint_names if data.robot in ROBOTS else None
    return fit_normalization(data.all_states(), chunks, mask, joint_names=names, **settings)


def load_parent(config: Config, meta: CheckpointMeta) -> Any:
    """The averaged parameters of the run to go on from, with the adapters that this run trains."""
    params, model = load_ema_params(config.train.init_from), load_meta(config.train.init_from).model
    return readapt(params, model, meta.model, jax.random.key(config.seed))


def make_training(config: Config, meta: CheckpointMeta, mesh: Mesh, weights: str = "") -> tuple[TrainState, Any]:
    """The state at step 0 over the devices of `mesh`, from the file `weights` if one is named, and the jitted step."""
    settings = read_section(config, "train", TrainConfig)
    optimizer = make_optimizer(settings)
    key = jax.random.key(config.seed)
    if weights:
        base = meta.model.base()
        params = readapt(load_params(weights, base, init=config.model.init, key=key), base, meta.model, key)
    else:
        params = init_params(meta.model, key)
    frozen, kept = frozen_paths(params, settings.freeze, insulated=meta.model.insulate), meta.model.param_dtype
    state = make_state(params, optimizer, mesh, frozen=frozen, frozen_dtype=kept, ema=settings.ema)
    loss = make_loss(config, meta)
    return state, make_train_step(loss, optimizer, schedule(settings), settings, state, seed=config.seed)


def make_loss(config: Config, meta: CheckpointMeta) -> Any:
    """The flow-matching loss (DexHiL eq. 11) as a function of parameters, inputs and random key."""
    samples = config.train.flow_samples
    return lambda params, inputs, key: flow_loss(params, meta.model, inputs, key, flow_samples=samples)


def make_heldout_loss(config: Config, meta: CheckpointMeta, inputs: Inputs) -> Callable[[Any], float | None]:
    """The flow loss on held-out episodes, over the same samples, noise and times at every call; None without them."""
    if not config.data.heldout_fraction:
        return lambda params: None
    data, loss = make_loader(config, "heldout"), make_eval_loss(make_loss(config, meta))
    count = max(1, min(HELDOUT_BATCHES, data.num_samples // data.batch_size))

    def heldout_loss(params: Any) -> float:
        sums, params = np.zeros(2), to_device(params)
        for index in range(count):
            key = jax.random.fold_in(jax.random.key(config.seed), index)
            sums += np.array(jax.device_get(loss(params, inputs(data.batch(index)), key)))
        return float(sums[0] / sums[1])

    return heldout_loss


def train(
    config: Config,
    run: Run,
    meta: CheckpointMeta,
    batches: Any,
    inputs: Inputs,
    state: TrainState,
    train_step: Any,
    heldout_loss: Callable[[Any], float | None],
    checkpoints: Checkpoints,
) -> TrainState:
    """Steps until `config.train.steps` are done; logs, saves and stops cleanly on Ctrl-C on the way."""
    settings, start = config.train, int(state.step)
    curves = Curves(run, settings.batch_size)
    with progress(settings.steps, "training", start=start) as bar, stop_requested() as stopping:
        for done, batch in enumerate(itertools.islice(batches, settings.steps - start), start + 1):
            state, metrics = train_step(state, inputs(batch))
            check_finite(metrics, done, batch["rows"])
            curves.add(metrics)
            last, stop = done == settings.steps, any_process(stopping())
            if last or done % settings.log_every == 0:
                due = last or done % settings.heldout_every == 0
                line = curves.write(done, **({"heldout_loss": heldout_loss(policy_params(state))} if due else {}))
                bar.update(done, loss=line["loss"])
            if last or done % settings.save_every == 0 or stop:
                checkpoints.save(state, meta)
            if stop and not last:
                checkpoints.wait()
                print(f"stopped after step {done}; the same command goes on from there")
                raise KeyboardInterrupt
    curves.close()
    checkpoints.wait()
    return state


if __name__ == "__main__":
    run_command(main)
