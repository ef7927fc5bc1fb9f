"""How right are the crystals that a recipe learns to make in a given time?

    python experiments/match_rate/run.py --config=configs/best.py:smoke \
        --dataset=perov_5 --train=data/perov_train --test=data/perov_test \
        --budget_seconds=3600

trains a recipe on one data set for a budget and evaluates it on held-out structures:
match rate of the first and of the best of ``--num_samples`` samples, with the true
lattice and with the true coordinates in their place, validity, space groups, by kind of
structure, and the same for two answers that need no network (`baselines`). The
built-in alloys need no ``--train``; with ``--energies`` their samples are relaxed and
their energies compared with those asked for. Leaves one JSON in ``--output`` and the
run in ``--workdir``, which a second call goes on with.
"""

import bisect
import collections
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from crystaljax import prepare, train
from crystaljax.crystals import assessment, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import pipeline
from crystaljax.matching import matcher
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import (
    collective_generation,
    conditions,
    estimation,
    evaluation,
    generation,
)
from crystaljax.system import atomic_files, environment, sharding, workers
from crystaljax.training import batches as batches_lib
from crystaljax.training import build as build_training
from crystaljax.training import checkpoints, runs, train_step

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from match_rate import baselines, energies  # noqa: E402
from throughput import command  # noqa: E402

TOLERANCES = tuple(matcher.TOLERANCES[name] for name in ("literature", "paper"))
# With the last space group of each.
SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
# Dispatches that the speed of training is measured on.
NUM_TIMED = 5


def main() -> None:
    """Command line."""
    command.run(__doc__ or "", define_flags, run)


def define_flags(values: flags.FlagValues) -> None:
    """Flags beside --config."""

    def text(name: str, default: str | None, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def integer(name: str, default: int | None, meaning: str) -> None:
        flags.DEFINE_integer(name, default, meaning, 1, flag_values=values)

    text("dataset", "builtin", "Name of the data set in the record.")
    text("train", None, "Data set directory; the built-in alloys by default.")
    text("test", None, "That of the held-out structures; the one of --train else.")
    text("split", "test", "Which of its structures.")
    text("recipe", None, "Name in the record; the config's by default.")
    integer("budget_seconds", None, "Train for as many seconds as this.")
    integer("num_structures", 500, "Held-out structures to ask for.")
    integer("num_samples", 20, "Samples of each for match@k.")
    integer("num_for_many", 200, "Structures that --num_samples are made of.")
    integer("draws", 8, "Crystals that the picked ones are picked from; 1 for none.")
    flags.DEFINE_bool(
        "energies", False, "Relax with EMT and compare energies.", flag_values=values
    )
    flags.DEFINE_bool("baselines", True, "Measure them too.", flag_values=values)
    text("workdir", None, "Run directory; runs/match_rate/NAME by default.")
    text("output", str(HERE), "Folder of the JSON.")


def run(values: flags.FlagValues) -> None:
    """Trains, evaluates and writes."""
    config = values.config
    recipe = values.recipe or config_name()
    name = f"{values.dataset}_{recipe}".replace("/", "-").replace(":", "-")
    workdir = pathlib.Path(values.workdir or f"runs/match_rate/{name}")
    config.data.path = values.train or str(prepare_builtin(workdir.parent / "alloys"))
    config.evaluation.num_structures = 0
    if runs.is_run(workdir):
        config = runs.load_config(workdir)
    elif values.budget_seconds:
        config.train.num_steps = steps_within(config, values.budget_seconds)
    seconds = train_and_time(config, workdir)
    test = datasets.open_dataset(values.test or config.data.path)
    asked = draw(test, values.split, values.num_structures)
    result: dict[str, Any] = {
        "dataset": values.dataset,
        "recipe": recipe,
        **evaluate(workdir, test, asked, values),
        "num_structures": len(asked),
        "budget_seconds": values.budget_seconds,
        "training_seconds": seconds,
        "steps": config.train.num_steps,
        "batch_size": config.train.batch_size,
        "network_evaluations": config.sampler.num_steps,
        "device": jax.devices()[0].device_kind,
        "cores": workers.default_num_workers(),
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    if values.baselines:
        known = datasets.open_dataset(config.data.path)
        result["baselines"] = measure_baselines(known, test, asked)
    path = pathlib.Path(values.output) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(path, result)
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=2))
    print(f"written: {path}")


def train_and_time(config: Any, workdir: pathlib.Path) -> float:
    """Trains what is left to train; seconds that all calls together have taken."""
    path = workdir / "training_seconds.json"
    spent = json.loads(path.read_text()) if path.exists() else 0.0
    if runs.is_run(workdir):
        with checkpoints.open_manager(workdir) as manager:
            if manager.latest_step() == config.train.num_steps:
                return spent
    start = time.perf_counter()
    train.train(config, workdir, resume=True)
    spent += time.perf_counter() - start
    atomic_files.write_json(path, spent)
    return spent


def config_name() -> str:
    """The config as it was given, such as ``best:smoke``."""
    (given,) = [arg for arg in sys.argv if arg.startswith("--config=")]
    path, _, variant = given.removeprefix("--config=").partition(":")
    return f"{pathlib.Path(path).stem}:{variant}".removesuffix(":")


def prepare_builtin(path: pathlib.Path) -> pathlib.Path:
    """The packaged alloys, a tenth of their formulas held out."""
    if not path.exists():
        prepare.prepare(
            prepare.PrepareOptions(
                source="builtin", output=path, test_fraction=0.1, figures=False
            )
        )
    return path


def steps_within(config: Any, seconds: float) -> int:
    """Steps that training takes in a time, compilation included."""
    dataset = datasets.open_dataset(config.data.path)
    per_dispatch = config.train.steps_per_dispatch
    made = batches_lib.build_batches(config, dataset, 100 * per_dispatch)
    batches = pipeline.build_iterator(made.source)
    mesh = sharding.build_mesh()
    trainee = build_training.build_trainee(config, made.scale, num_steps=10**6)
    dispatch_fn = train_step.build_dispatch_fn(trainee, mesh)
    state = train_step.init_state(trainee, config.train.seed, mesh)
    key = generation.key_of_seed(0)
    # By their number of sites: each compiles once.
    spent: dict[int, list[float]] = collections.defaultdict(list)
    shares: collections.Counter[int] = collections.Counter()
    for number, batch in enumerate(batches):
        sites = batch.atomic_numbers.shape[-1]
        shares[sites] += 1
        if len(spent[sites]) <= NUM_TIMED:
            start = time.perf_counter()
            batch = sharding.shard_batch(batch, mesh, axis=1)
            state, metrics = dispatch_fn(state, batch, key)
            jax.block_until_ready(metrics)
            spent[sites].append(time.perf_counter() - start)
        if number == 99:
            break
    compiling = sum(times[0] for times in spent.values())
    # The first one of each compiles; the second still fills caches.
    typical = {sites: np.median(times[2:] or times) for sites, times in spent.items()}
    mean = sum(typical[sites] * count for sites, count in shares.items()) / 100
    print(f"{mean / per_dispatch * 1000:.1f} ms a step, {compiling:.0f} s to compile")
    left = max(seconds - compiling, 0)
    return max(int(left / mean), 1) * per_dispatch


def draw(dataset: datasets.Dataset, split: str, count: int) -> np.ndarray:
    """As many structures of a split, always the same."""
    indices = dataset.indices(split)
    drawn = np.random.default_rng(0).permutation(indices)[:count]
    return np.sort(drawn)


def evaluate(
    workdir: pathlib.Path,
    test: datasets.Dataset,
    asked: np.ndarray,
    values: flags.FlagValues,
) -> dict[str, Any]:
    """All that is measured on a trained network."""
    mesh = sharding.build_local_mesh()
    loaded = checkpoints.load_run(workdir, mesh)
    sites = structure.max_sites(loaded.config.data.rows)
    known = datasets.open_dataset(loaded.vocabulary["dataset"])
    generator = build_sampling.generator_of_run(loaded, loaded.config, mesh)
    estimate_fn = generator.estimate_energies
    estimate_error = estimation.measure_error(estimate_fn, known)
    generator = generator.with_params(loaded.params, estimate_error)
    # One sample of each is what match rates are of.
    whole = dataclasses.replace(generator.host, num_draws=1)

    def sample(
        indices: np.ndarray, seed: int, host: generation.HostWork = whole
    ) -> list[structure.Crystal]:
        batch = datasets.gather(test, indices, sites)
        asked_for = conditions.conditions_of(batch)
        earlier = np.arange(len(indices)) // len(np.unique(indices))
        asked_for = asked_for.replace(repetition=earlier.astype(np.int32))
        return collective_generation.generate(
            dataclasses.replace(generator, host=host),
            asked_for,
            generation.key_of_seed(seed),
        )

    samples = sample(asked, 0)
    targets = [datasets.crystal(test, int(i)) for i in asked]
    first = matcher.match_many(samples, targets, TOLERANCES)
    result = describe_matches(first)
    groups = np.asarray(test.space_group[asked])
    if loaded.config.sampler.project:
        plain = sample(asked, 0, dataclasses.replace(whole, refine_fn=None))
        result["without_projection"] = {
            **describe_matches(matcher.match_many(plain, targets, TOLERANCES)),
            **describe_validity(plain, groups),
        }
    if estimate_error is not None:
        result["estimator"] = {
            "error_on_validation": estimate_error,
            "error": estimation.measure_error(estimate_fn, test, values.split),
        }
    if values.draws > 1:
        picked = sample(asked, 0, dataclasses.replace(whole, num_draws=values.draws))
        result["picked"] = {
            "draws": values.draws,
            **describe_matches(matcher.match_many(picked, targets, TOLERANCES)),
            **describe_validity(picked, groups),
        }
    swapped = {
        "coordinates_only": [swap(s, lattice_of=t) for s, t in pairs(samples, targets)],
        "lattice_only": [swap(t, lattice_of=s) for s, t in pairs(samples, targets)],
    }
    for name, crystals in swapped.items():
        result[name] = rates(matcher.match_many(crystals, targets, TOLERANCES))
    result |= describe_validity(samples, groups)
    some = asked[np.argsort(np.random.default_rng(1).random(len(asked)))]
    some = np.sort(some[: values.num_for_many])
    result["match_many"] = match_many_samples(sample, some, test, values.num_samples)
    result["by"] = by_kind(first, targets, groups)
    if values.energies:
        asked_energy = np.asarray(test.formation_energy[asked])
        result["energies"] = energies.compare(samples, asked_energy)
        if values.draws > 1:
            result["picked"]["energies"] = energies.compare(picked, asked_energy)
    return result


def pairs(samples, targets):
    """Samples with their targets."""
    return zip(samples, targets, strict=True)


def swap(
    crystal: structure.Crystal, *, lattice_of: structure.Crystal
) -> structure.Crystal:
    """The sites of one crystal in the lattice of another."""
    return structure.Crystal(
        crystal.atomic_numbers, crystal.frac_coords, lattice_of.lattice
    )


def rates(matches: matcher.Matches) -> dict[str, float]:
    """Match rate at each tolerance."""
    found = zip(matches.tolerances, matches.match_rates(), strict=True)
    return {str(tolerance): float(rate) for tolerance, rate in found}


def describe_matches(matches: matcher.Matches) -> dict[str, Any]:
    """Match rates with standard errors, and RMS displacements of what matches."""
    found = rates(matches)
    rms = zip(matches.tolerances, matches.mean_rms(), strict=True)
    count = max(len(matches.matched), 1)
    return {
        "match_rate": found,
        "standard_error": {
            name: float(np.sqrt(rate * (1 - rate) / count))
            for name, rate in found.items()
        },
        "rms": {str(tolerance): float(value) for tolerance, value in rms},
    }


def describe_validity(
    samples: Sequence[structure.Crystal], groups: np.ndarray
) -> dict[str, Any]:
    """Share of samples that are valid, and of those of the asked-for space group."""
    checks = assessment.check_many(samples, symprecs=evaluation.SYMPRECS)
    return {
        "valid": float(checks.valid.mean()),
        "space_group": {
            f"{symprec:g}": float(np.mean(checks.space_groups[:, i] == groups))
            for i, symprec in enumerate(evaluation.SYMPRECS)
        },
    }


def match_many_samples(
    sample: Callable[[np.ndarray, int], list[structure.Crystal]],
    indices: np.ndarray,
    test: datasets.Dataset,
    count: int,
) -> dict[str, Any]:
    """Share of structures that one of several samples matches."""
    samples = sample(np.tile(indices, count), 1)
    targets = [datasets.crystal(test, int(i)) for i in np.tile(indices, count)]
    matches = matcher.match_many(samples, targets, TOLERANCES)
    matched = matches.matched.reshape(count, len(indices), len(TOLERANCES))
    ks = [k for k in (1, 5, 20, count) if k <= count]
    return {
        "num_structures": len(indices),
        **{
            f"match@{k}": {
                str(tolerance): float(matched[:k, :, i].any(axis=0).mean())
                for i, tolerance in enumerate(TOLERANCES)
            }
            for k in dict.fromkeys(ks)
        },
    }


def by_kind(
    matches: matcher.Matches,
    targets: Sequence[structure.Crystal],
    space_groups: np.ndarray,
) -> dict[str, Any]:
    """Match rates at the first tolerance with counts, by kind of structure."""
    matched = matches.matched[:, 0]
    kinds = {
        "crystal_system": [crystal_system(group) for group in space_groups.tolist()],
        "space_group": [str(group) for group in space_groups.tolist()],
        "num_sites": [bin_of(target.num_sites) for target in targets],
        "num_elements": [str(len(set(t.atomic_numbers.tolist()))) for t in targets],
    }
    result = {}
    for kind, labels in kinds.items():
        members = collections.defaultdict(list)
        for label, success in zip(labels, matched.tolist(), strict=True):
            members[label].append(success)
        most = sorted(members, key=lambda label: -len(members[label]))[:12]
        result[kind] = {
            label: {"rate": float(np.mean(members[label])), "num": len(members[label])}
            for label in most
        }
    return result


def crystal_system(space_group: int) -> str:
    """Crystal system of a space group's number."""
    return SYSTEMS[bisect.bisect_left([last for last, _ in SYSTEMS], space_group)][1]


def bin_of(num_sites: int) -> str:
    """Sizes in fours: 1-4, 5-8, …."""
    low = (num_sites - 1) // 4 * 4 + 1
    return f"{low}-{low + 3}"


def measure_baselines(
    known: datasets.Dataset, test: datasets.Dataset, asked: np.ndarray
) -> dict[str, Any]:
    """Match rates of answers that no network gave."""
    targets = [datasets.crystal(test, int(i)) for i in asked]
    answers = {
        "nearest": baselines.nearest(known, test, asked),
        "random": baselines.random_placement(targets, seed=0),
    }
    return {
        name: describe_matches(matcher.match_many(crystals, targets, TOLERANCES))
        for name, crystals in answers.items()
    }


if __name__ == "__main__":
    main()
