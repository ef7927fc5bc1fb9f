"""From a config to its sampler."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from crystaljax import defaults
from crystaljax.crystals import orbits
from crystaljax.models import (
    build,
    processes,
    samplers,
    scaling,
    schedules,
    wyckoff_files,
    wyckoff_model,
)
from crystaljax.models.networks import interface, orbit_transformer
from crystaljax.sampling import (
    estimation,
    generation,
    likely_orbits,
    options,
    orbit_generation,
)
from crystaljax.system import errors, sharding
from crystaljax.training import checkpoints, runs


def override_sampler(config: Any, settings: options.SamplerSettings) -> Any:
    """A copy of a config with other sampler settings; None keeps the config's.

    Raises:
        ValueError: a setting that the sampler does not have or that is out of range, or
            an unknown preset.
    """
    config = config.copy_and_resolve_references()
    preset, num_steps, eta = settings.preset, settings.num_steps, settings.eta
    if preset is not None:
        if preset not in defaults.PRESETS:
            raise errors.UserError(
                f"unknown preset {preset!r}; expected one of {tuple(defaults.PRESETS)}"
            )
        # A process that is unknown is refused below.
        config.sampler.name, config.sampler.num_steps = defaults.PRESETS[preset].get(
            config.process.name, (config.sampler.name, config.sampler.num_steps)
        )
        config.sampler.eta = 0.0
    if settings.sampler is not None:
        config.sampler.name = settings.sampler
    _require_fitting_sampler(config)
    name = config.sampler.name
    if num_steps is not None:
        if name == "regression" and num_steps != 1:
            raise errors.UserError(
                f"num_steps is {num_steps}, but regression answers in one network "
                "evaluation; leave --num_steps out"
            )
        config.sampler.num_steps = num_steps
    if eta is not None:
        if name != "ddim":
            raise errors.UserError(
                f"eta is {eta}, but it belongs to DDIM, and the sampler is {name!r}; "
                "leave --eta out" + (" or set --sampler=ddim" if name == "ddpm" else "")
            )
        config.sampler.eta = eta
    if settings.draws is not None:
        config.sampler.draws = settings.draws
    if settings.follow_known is not None:
        if not build.is_of_orbits(config):
            raise errors.UserError(
                "follow_known belongs to models of orbits (configs/symmetric.py), and "
                f"this network is {config.model.network!r}; leave it out"
            )
        config.sampler.follow_known = settings.follow_known
    if config.sampler.draws > 1 and is_deterministic(config):
        raise errors.UserError(
            f"draws is {config.sampler.draws}, but this model has one answer "
            "to a question; leave `draws=` out"
        )
    _require_possible_steps(config)
    return config


def _require_fitting_sampler(config: Any) -> None:
    process, sampler = config.process.name, config.sampler.name
    if process not in defaults.SAMPLERS:
        raise errors.UserError(
            f"unknown process.name {process!r}; expected one of "
            f"{tuple(defaults.SAMPLERS)}"
        )
    if sampler not in defaults.SAMPLERS[process]:
        raise errors.UserError(
            f"sampler.name is {sampler!r}, but a network trained with process.name="
            f"{process!r} is sampled by {' or '.join(defaults.SAMPLERS[process])}"
        )


def _require_possible_steps(config: Any) -> None:
    name, num_steps = config.sampler.name, config.sampler.num_steps
    if config.process.name != "diffusion":
        return
    if name == "dpm_solver":
        schedules.log_snr_times(build.build_schedule(config), num_steps)
    else:
        schedules.leading_times(config.process.num_times, num_steps)


def is_deterministic(config: Any) -> bool:
    """Whether the same conditions always lead to the same sample, whatever the key."""
    if config.process.name == "flow_matching":
        return config.process.start == "source"
    return config.process.name == "regression"


def build_generator(
    config: Any,
    model: interface.Network,
    scale: scaling.Scaling,
    mesh: Mesh,
    dataset: str | os.PathLike | None,
) -> generation.Generator:
    """What makes crystals, complete but for the parameters of the network.

    Args:
        config: of the run, with the sampler to use.
        model: the network.
        scale: units of the network.
        mesh: from `sharding.build_local_mesh`.
        dataset: directory of the training structures, which templates are taken from.

    Raises:
        FileNotFoundError: see `build_host_work`.
        ValueError: see `build_sampler` and `build_host_work`.
    """
    sample_fn = build_sampler(config)
    numbers = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float32), (scale, model.tables())
    )
    scale, tables = sharding.replicate(numbers, mesh)
    return generation.Generator(
        generate_fn=generation.build_generate_fn(model, sample_fn, mesh),
        estimate_fn=estimation.build_estimate_fn(model),
        scale=scale,
        tables=tables,
        mesh=mesh,
        row_buckets=build.row_buckets(config),
        batch_size=config.evaluation.batch_size,
        host=build_host_work(config, dataset),
    )


def build_orbit_generator(
    config: Any,
    model: orbit_transformer.OrbitTransformer,
    scale: scaling.Scaling,
    mesh: Mesh,
    positions: wyckoff_model.WyckoffModel,
) -> Any:
    """What makes crystals as orbits, complete but for the parameters of the network.

    An `orbit_generation.OrbitGenerator`; in modification an
    `orbit_modification.OrbitModifier`.

    Args:
        config: of the run, with the sampler to use.
        model: the network.
        scale: units of the network.
        mesh: from `sharding.build_local_mesh`.
        positions: models of energies, groups and positions.

    Raises:
        ValueError: a sampler other than Euler, or several draws of a sample.
    """
    modifies = build.is_modification(config)
    draws = 1 if modifies else config.sampler.draws
    if config.sampler.name != "euler" or draws != 1:
        raise errors.UserError(
            f"sampler.name is {config.sampler.name!r} and sampler.draws is "
            f"{config.sampler.draws}, but a model of orbits is sampled by 'euler', one "
            "draw a sample; leave --sampler and --draws out"
        )
    process = build.build_process(config)
    assert isinstance(process, processes.FlowMatching)
    scale = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), scale)
    scale, tables = sharding.replicate((scale, orbits.load_tables()), mesh)
    # Flax makes it hashable, which type checkers do not see.
    network: Any = model
    generator = orbit_generation.OrbitGenerator(
        generate_fn=orbit_generation.build_generate_fn(
            network, process, config.sampler.num_steps, mesh
        ),
        scale=scale,
        tables=tables,
        positions=positions,
        mesh=mesh,
        shapes=build.orbit_shapes(config),
        batch_size=config.evaluation.batch_size,
        follow_known=config.sampler.follow_known,
    )
    if not modifies:
        return generator
    # They bring the search for symmetry, and the comparison of crystals.
    from crystaljax.sampling import orbit_modification

    return orbit_modification.OrbitModifier(
        generator, config.evaluation.batch_size, config.sampler.draws
    )


def generator_of_run(
    run: checkpoints.Run,
    config: Any,
    mesh: Mesh,
    requests: Sequence[likely_orbits.Request] = (),
) -> generation.AnyGenerator:
    """The generator of a trained network.

    Args:
        run: with its parameters on the mesh.
        config: of the run, with the sampler to use.
        mesh: from `sharding.build_local_mesh`.
        requests: orbits of each sample, for a model of orbits; it chooses them itself
            where there are none.

    Raises:
        FileNotFoundError, ValueError: see `build_generator`.
    """
    if build.is_of_orbits(config):
        generator = build_orbit_generator(
            config,
            run.model,
            run.scale,
            mesh,
            wyckoff_files.load(run.workdir / runs.POSITIONS, runs.REMEDY),
        )
        if not build.is_modification(config):
            generator = dataclasses.replace(generator, requests=requests)
        return generator.with_params(run.params, run.energy_error)
    generator = build_generator(
        config, run.model, run.scale, mesh, run.vocabulary.get("dataset")
    )
    return generator.with_params(run.params, run.energy_error)


def build_host_work(
    config: Any, dataset: str | os.PathLike | None
) -> generation.HostWork:
    """What the host does for each batch of samples.

    Args:
        config: of the run.
        dataset: directory of the training structures, which templates are taken from.

    Raises:
        FileNotFoundError: templates are needed, and the data set is not there.
        ValueError: ``sampler.project`` is not a distance, or ``sampler.draws`` not
            positive.
    """
    attach_fn = None
    if count := config.data.num_templates:
        if dataset is None or not pathlib.Path(dataset).exists():
            raise FileNotFoundError(
                "the network is shown templates from its training structures, but "
                f"there is no data set at {dataset}; put it back there"
            )
        # Nearest neighbours bring SciPy.
        from crystaljax.data import dataset as datasets
        from crystaljax.data import templates

        library = templates.build_library(datasets.open_dataset(dataset))
        attach_fn = functools.partial(templates.attach, library=library, count=count)
    count = config.sampler.draws
    if count < 1:
        raise errors.UserError(f"sampler.draws is {count}; expected 1 or more")
    return generation.HostWork(attach_fn, _refine_fn(config), count)


def _refine_fn(config):
    largest = config.sampler.project
    if not largest >= 0:
        raise errors.UserError(
            f"sampler.project is {largest}; expected a distance in Å, 0 for none"
        )
    if largest == 0:
        return None
    # The hot path does without spglib.
    from crystaljax.crystals import projection

    return functools.partial(projection.project, largest=largest)


def build_sampler(config: Any) -> generation.SampleFn:
    """The sampler, from the keys of the samples to the samples.

    Raises:
        ValueError: an unknown name, one that does not fit the process, or settings out
            of range.
    """
    _require_fitting_sampler(config)
    _require_possible_steps(config)
    process = processes.Regression()
    if config.process.name != "regression":
        process = build.build_process(config)
    sampler = config.sampler
    return _sample_fn(process, sampler.name, sampler.num_steps, sampler.eta)


@functools.lru_cache(maxsize=16)
def _sample_fn(
    process: processes.Process, name: str, num_steps: int, eta: float
) -> generation.SampleFn:
    """The same function for the same settings: what calls it is compiled once."""
    if isinstance(process, processes.Diffusion):
        schedule = process.schedule

        def sample(predict_fn, keys, rows, mask, source, known=None):
            noise = samplers.sample_noise(keys, rows)
            settings = {"schedule": schedule, "num_steps": num_steps, "mask": mask}
            if known is not None:
                settings["kept"] = samplers.Kept(*known)
            if name == "dpm_solver":
                return samplers.sample_dpm_solver(predict_fn, noise, **settings)
            if name == "ddpm":
                return samplers.sample_ddpm(predict_fn, noise, keys, **settings)
            return samplers.sample_ddim(predict_fn, noise, keys, eta=eta, **settings)

    elif isinstance(process, processes.FlowMatching):
        sampler = samplers.sample_heun if name == "heun" else samplers.sample_euler

        def sample(predict_fn, keys, rows, mask, source, known=None):
            if process.noise_fn is None:
                start = processes.require_source(source)
            else:
                start = samplers.sample_noise(keys, rows, process.noise_fn)

            def velocity_fn(x, t):
                return process.velocity(predict_fn(x, t), x, t)

            kept = None
            if known is not None:
                is_kept, value = known
                kept = samplers.Kept(is_kept, value, process.way(start, value))
            return sampler(
                velocity_fn, start, num_steps=num_steps, mask=mask, kept=kept
            )

    else:

        def sample(predict_fn, keys, rows, mask, source, known=None):
            start = processes.require_source(source)
            kept = None if known is None else samplers.Kept(*known)
            return samplers.sample_regression(predict_fn, start, mask=mask, kept=kept)

    return sample
