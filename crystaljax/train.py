"""Trains a network.

    crystaljax train --config=configs/ddim.py:smoke --workdir=runs/smoke

Any value of the config can be set by flag (``--config.train.batch_size=64``). A run
that was killed goes on with ``--resume`` and ends with the same parameters, bit for
bit. Asked to stop (SIGTERM, as Slurm sends it, or Ctrl-C), it writes a checkpoint after
the steps under way and ends with status 75.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import tqdm

from crystaljax import command_line
from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.data import pipeline
from crystaljax.models import build, scaling
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import (
    calibration,
    estimation,
    generation,
    orbit_generation,
    validation,
)
from crystaljax.system import (
    atomic_files,
    errors,
    folder_locks,
    interruption,
    saved_requests,
    sharding,
)
from crystaljax.system import options as options_lib
from crystaljax.training import batches as batches_lib
from crystaljax.training import build as build_training
from crystaljax.training import (
    checkpoints,
    fine_tuning,
    orbit_batches,
    orbit_training,
    run_positions,
    runs,
    train_step,
)
from crystaljax.training import metrics as metrics_lib

BUILTIN = "builtin"


def train(
    config: Any,
    workdir: str | pathlib.Path,
    *,
    resume: bool = False,
    show_progress: bool = True,
) -> train_step.TrainState:
    """Trains the network of a config and returns the final state.

    Args:
        config: see configs/ddim.py for every key.
        workdir: the run directory (see `crystaljax.training.runs` for what is written).
        resume: go on from the newest checkpoint in ``workdir``, or start if there is
            none; the config must be that of the run.
        show_progress: print a progress bar.

    Raises:
        FileExistsError: ``workdir`` holds a run and ``resume`` is False, or another
            process trains there.
        ValueError: the config does not fit the data, the devices, or the resumed run.
        FloatingPointError: a metric became NaN or infinite.
        interruption.Stopped: a signal asked to stop; a checkpoint has been written.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        if sharding.is_first_process():
            remedy = "choose another --workdir"
            stack.enter_context(folder_locks.hold(workdir, remedy))
            atomic_files.remove_leftovers(workdir)
        return _train(config, workdir, resume=resume, show_progress=show_progress)


def _train(
    config: Any, workdir: pathlib.Path, *, resume: bool, show_progress: bool
) -> train_step.TrainState:
    # ---------------------------------------------------------------- devices and data
    mesh = sharding.build_mesh()
    sharding.require_divisible(
        config.train.batch_size // config.train.accumulation_steps, mesh
    )
    _require_new_or_resumed(workdir, config, resume)
    dataset = _open_dataset(config, workdir)
    of_orbits = build.is_of_orbits(config)
    if of_orbits:
        batches = orbit_batches.build_batches(config, dataset)
    else:
        _require_fits(dataset, config.data.rows)
        batches = batches_lib.build_batches(config, dataset)
    iterator = pipeline.build_iterator(batches.source)
    num_steps, scale = batches.num_steps, batches.scale
    start = None
    if config.train.init and runs.has_checkpoint(workdir):
        # The model that the run started from has no further say, and may be gone.
        scale = scaling.load_scaling(workdir / "scaling.json")
    elif config.train.init:
        start = fine_tuning.load(config, sharding.build_local_mesh())
        scale = fine_tuning.join_scale(start, scale, dataset)
    steps_per_dispatch = config.train.steps_per_dispatch

    # -------------------------------------------------------------- model and optimiser
    build_trainee = (
        orbit_training.build_trainee if of_orbits else build_training.build_trainee
    )
    trainee = build_trainee(config, scale, num_steps)
    model: Any = trainee.model
    train_key = jax.jit(
        lambda: generation.key_of_seed(config.train.seed),
        out_shardings=sharding.replicated(mesh),
    )()
    dispatch_fn = train_step.build_dispatch_fn(trainee, mesh)
    sampling_mesh = sharding.build_local_mesh()

    # ------------------------------------------------------- run directory, checkpoints
    if sharding.is_first_process() and not runs.is_run(workdir):
        vocabulary = _describe_data(config, dataset, batches.energies)
        if start is not None:
            if show_progress:
                print(fine_tuning.describe(start, vocabulary), flush=True)
            vocabulary = fine_tuning.join_vocabulary(start, vocabulary)
        runs.create_run(workdir, config, scale, vocabulary)
    sharding.wait_for_all("run directory")
    if of_orbits:
        generator = build_sampling.build_orbit_generator(
            config,
            model,
            scale,
            sampling_mesh,
            run_positions.load_or_train(
                config, dataset, scale, workdir, start, show_progress
            ),
        )
    else:
        generator = build_sampling.build_generator(
            config, model, scale, sampling_mesh, dataset.path
        )
    manager = checkpoints.open_manager(workdir, config.train.keep_checkpoints)
    # Metrics stay on the device until they are logged: fetching one waits for it.
    pending: list[Any] = []
    if manager.latest_step() is None:
        params = None
        if start is not None:
            fresh = trainee.init_params(config.train.seed)
            params = fine_tuning.complete_params(start, fresh)
        state = train_step.init_state(trainee, config.train.seed, mesh, params)
    else:
        like = train_step.state_shapes(trainee)
        state, position, pending = checkpoints.restore_state(manager, like, mesh)
        iterator.set_state(position)
    step = int(state.step)
    log = metrics_lib.MetricsLog(workdir, step)

    # -------------------------------------------------------------------- training loop
    def is_due(interval: int) -> bool:
        return step == num_steps or bool(interval and step % interval == 0)

    def save() -> None:
        # What is logged up to here is on the disk before the checkpoint is.
        log.flush()
        position = iterator.get_state()
        checkpoints.save_state(manager, state, position, jax.device_get(pending))

    def measure() -> generation.AnyGenerator:
        """The sampler as it is now, and the error of its energies."""
        params = sharding.localize(state.sampling_params, sampling_mesh)
        error = estimation.measure_error(
            generator.with_params(params, None).estimate_energies, dataset
        )
        measured = generator.with_params(params, error)
        if error is not None and sharding.is_first_process():
            unit = None
            if step == num_steps and isinstance(
                measured, orbit_generation.OrbitGenerator
            ):
                unit = calibration.find_unit(config, measured, dataset)
            runs.save_estimator_errors(workdir, error, unit)
        return measured

    def save_at_last() -> None:
        if manager.latest_step() != step:
            # Before the checkpoint, so that none is without it.
            measure()
            save()
        manager.wait_until_finished()

    is_alone = jax.process_count() == 1

    def stop_if_requested() -> None:
        """Between two dispatches; several processes agree where they log."""
        requested = interruption.is_requested()
        if not is_alone:
            is_time = is_due(config.train.log_every)
            requested = is_time and sharding.is_any(requested)
        if requested:
            save_at_last()
            interruption.stop()

    progress = tqdm.tqdm(
        total=num_steps,
        initial=step,
        desc="train",
        unit="step",
        smoothing=0.02,
        disable=not (show_progress and sharding.is_first_process()),
    )
    interval_start, interval_step = time.perf_counter(), step
    with (
        checkpoints.explain_disk_errors(workdir),
        progress,
        contextlib.closing(log),
        manager,
        # A signal waits for the steps under way, and for a checkpoint.
        interruption.deferred(),
    ):
        # A process that was killed after the checkpoint did not come to it.
        is_validated = step == 0 or sharding.is_any(log.is_validated)
        current = None
        while True:
            if is_due(config.train.validate_every) and not is_validated:
                try:
                    with interruption.at_once(is_alone):
                        results = validation.validate(
                            config, current or measure(), dataset
                        )
                except interruption.Stopped:
                    save_at_last()
                    raise
                log.write(step, results)
                interval_start, interval_step = time.perf_counter(), step
            if step == num_steps:
                break
            stop_if_requested()
            dispatched = sharding.shard_batch(next(iterator), mesh, axis=1)
            with jax.transfer_guard("disallow"):
                state, metrics = dispatch_fn(state, dispatched, train_key)
            step += steps_per_dispatch
            is_validated, current = False, None
            pending.append(metrics)
            if is_due(config.train.log_every):
                metrics = metrics_lib.mean_metrics(jax.device_get(pending), step)
                seconds = time.perf_counter() - interval_start
                rate = (step - interval_step) * config.train.batch_size / seconds
                log.write(step, metrics | {"structures_per_second": rate})
                progress.set_postfix(loss=f"{metrics['loss']:.4f}")
                progress.update(step - progress.n)
                pending = []
                interval_start, interval_step = time.perf_counter(), step
            if is_due(config.train.checkpoint_every):
                # Before the checkpoint, so that none is without it after a kill.
                current = measure()
                save()
        manager.wait_until_finished()
    return state


def _require_new_or_resumed(workdir: pathlib.Path, config: Any, resume: bool) -> None:
    runs.require_config_or_nothing(workdir)
    exists = runs.is_run(workdir)
    # None of the processes may create what another one looks for.
    sharding.wait_for_all("looked for a run")
    if not exists:
        return
    if not resume:
        raise FileExistsError(
            f"{workdir} already holds a run; pass --resume to go on with it, or choose "
            "another --workdir"
        )
    saved_requests.require_same(
        config.to_dict(),
        runs.load_config(workdir).to_dict(),
        path=workdir,
        contents="a run",
        remedy="--resume goes on with the config that it was started with",
    )
    # What sampling needs is whole, before weeks of training are spent on it.
    runs.load_vocabulary(workdir)
    runs.load_json(workdir / "scaling.json")


def _open_dataset(config: Any, workdir: pathlib.Path) -> datasets.Dataset:
    if config.data.path == BUILTIN:
        setting = "standard" if build.is_of_orbits(config) else "origin"
        return _prepare_builtin(workdir / "dataset", setting)
    return datasets.open_dataset(config.data.path)


def _prepare_builtin(
    path: pathlib.Path, setting: Literal["origin", "standard"]
) -> datasets.Dataset:
    """The packaged alloys as a data set, prepared the first time."""
    # The data set alone does not say that all is done: a process may have been killed
    # right after it had written it.
    unfinished = path.with_name(f".{path.name}.partial").exists()
    if sharding.is_first_process() and (unfinished or not path.exists()):
        # Preparing brings pymatgen and spglib, which training itself does without.
        from crystaljax import prepare

        prepare.prepare(
            prepare.PrepareOptions(
                source=BUILTIN, output=path, figures=False, setting=setting
            )
        )
    sharding.wait_for_all("data set")
    return datasets.open_dataset(path)


def _describe_data(
    config: Any, dataset: datasets.Dataset, energies: np.ndarray
) -> dict[str, Any]:
    described = {
        **datasets.vocabulary(dataset),
        "energy_model": dataset.info.get("energy_model"),
        "dataset": str(dataset.path.absolute()),
    }
    if build.is_modification(config):
        options = dataset.info.get("options", {})
        described |= {
            "energy_difference": [float(energies.min()), float(energies.max())],
            # The form that a crystal to be modified has to be brought into.
            "canonical": options.get("origin", "site"),
            "primitive": options.get("primitive", False),
        }
    return described


def _require_fits(dataset: datasets.Dataset, rows: int) -> None:
    """Raises ValueError if a structure has more sites than ``rows`` hold."""
    largest = int(dataset.num_sites.max())
    if largest > structure.max_sites(rows):
        raise errors.UserError(
            f"the dataset has structures of {largest} sites, but data.rows={rows} "
            f"holds {structure.max_sites(rows)}; set --config.data.rows="
            f"{structure.rows_for(largest)} (and model.element_rows at least that), or "
            "prepare with a smaller --max_sites"
        )


@options_lib.frozen
class TrainOptions:
    """What the command trains."""

    config: Any = options_lib.option(
        "Name of a config of the package, such as best or best:smoke, or a file such "
        "as configs/ddim.py or configs/ddim.py:smoke. Any value in it has a flag of "
        "its own: --config.train.batch_size=64.",
        is_config=True,
    )
    workdir: str = options_lib.option("Run directory to write.")
    resume: bool = options_lib.option(
        "Go on with the run in the run directory.", default=False
    )
    init: str | None = options_lib.option(
        "Model whose weights the training starts from: a name of `crystaljax models`, "
        "such as mp, or a folder of a model or a run; the same as --config.train.init.",
        default=None,
    )


def _run(chosen: TrainOptions) -> None:
    dtype = build.resolve_dtype(chosen.config.train.dtype)
    if dtype == np.float16 and jax.default_backend() == "cpu":
        print(
            "note: train.dtype is float16, which CPUs emulate: compiling the step of a "
            "large network takes minutes, and every step longer; "
            "--config.train.dtype=float32 avoids it",
            file=sys.stderr,
        )
    if chosen.init is not None:
        chosen.config.train.init = chosen.init
    train(chosen.config, chosen.workdir, resume=chosen.resume)


COMMAND = command_line.Command(
    "train",
    __doc__,
    (TrainOptions,),
    _run,
    goes_on="the same command with --resume goes on from here",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
