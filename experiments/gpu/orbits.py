"""The package's model `mp`: final crystals per second, and how right these are."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gpu.measurement import Measurement
from throughput import timing

from crystaljax.crystals import elements
from crystaljax.models import prototype_library
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import generation, likely_orbits, orbit_generation
from crystaljax.system import sharding
from crystaljax.training import checkpoints, model_files, runs

_MODEL = "mp"
# Held-out structures of a data set that are asked for.
_NUM_HELD_OUT = 400


def final(measurement: Measurement) -> None:
    """Crystals from conditions to arrays on the host, by the size of their arrays.

    Nothing is left to do on the host after these. With the data set of the model
    (``--dataset``) its held-out structures are asked for, and matched; otherwise
    prototypes that the model knows, whose answers tell nothing.
    """
    size, described = measurement.size, {"model": _MODEL}
    workdir = model_files.resolve(None, _MODEL)
    mesh = sharding.build_local_mesh()
    run = checkpoints.load_run(workdir, mesh)
    generator = build_sampling.generator_of_run(run, runs.load_config(workdir), mesh)
    generator = dataclasses.replace(
        generator,
        batch_size=size.orbit_batch,
        shapes=generator.shapes[: size.orbit_shapes],
    )
    start = time.perf_counter()
    if measurement.dataset is not None:
        described["asked"] = "formula, space group and energy of held-out structures"
        requests = ask_held_out(measurement, workdir)
    else:
        described["asked"] = "prototypes of the training structures"
        requests = known_prototypes(generator)
    seconds = time.perf_counter() - start
    measurement.add(
        "positions",
        **described,
        questions=len(requests),
        seconds_with_compilation=seconds,
    )
    by_shape: dict[tuple[int, int], list[likely_orbits.Request]] = {}
    for each in requests:
        num_orbits, num_sites = orbit_generation.size_of(each)
        fitting = [
            shape
            for shape in generator.shapes
            if num_orbits <= shape[0] and num_sites <= shape[1]
        ]
        if fitting:
            by_shape.setdefault(fitting[0], []).append(each)
    for shape, chosen in sorted(by_shape.items()):
        report = time_samples(measurement, generator, chosen)
        measurement.add(
            "final crystals of mp",
            **described,
            orbits=shape[0],
            sites=shape[1],
            **report,
        )


def ask_held_out(measurement: Measurement, workdir: Any) -> list[likely_orbits.Request]:
    """The likeliest orbits of held-out structures; reports how many are right."""
    # Beside this folder, where scripts import it by its name.
    folder = str(measurement.experiments / "orbits")
    if folder not in sys.path:
        sys.path.append(folder)
    import measure

    task = measure.load_task(workdir, measurement.dataset, _NUM_HELD_OUT)
    questions = task.questions()["energy"]
    found = measure.measure(task, "energy", questions, 1)
    kept = ("match@1", "positions_right", "valid", "space_group_as_asked")
    measurement.add(
        "match rate of mp",
        structures=len(questions),
        **{name: found[name] for name in kept},
    )
    chosen = likely_orbits.choose_orbits(
        task.model, questions, [1] * len(questions), shape=task.generator.shapes[-1]
    )
    return [each for row in chosen for each in row]


def known_prototypes(
    generator: orbit_generation.OrbitGenerator,
) -> list[likely_orbits.Request]:
    """Requests for the entries of the model's library, of the elements in their middle.

    Entries that would have one element twice are left out.
    """
    assert generator.positions is not None
    library = generator.positions.library
    numbers = elements.mendeleev_number()
    requests = []
    for row in range(len(library)):
        apart = np.abs(numbers[1:] - np.asarray(library.numbers[row])[:, None])
        species = tuple((1 + np.argmin(apart, axis=1)).tolist())
        if len(set(species)) < len(species):
            continue
        question = prototype_library.Question(
            species,
            library.counts[row],
            float(library.energies[row]),
            int(library.space_groups[row]),
        )
        requests.append(likely_orbits.Request(question, library.assignments[row]))
    return requests


def time_samples(
    measurement: Measurement,
    generator: orbit_generation.OrbitGenerator,
    requests: Sequence[likely_orbits.Request],
) -> dict[str, Any]:
    """Crystals per second of so many samples, cycling through the requests."""
    size = measurement.size
    cycled = [requests[i % len(requests)] for i in range(size.orbit_samples)]
    asked = likely_orbits.number_repeats(cycled)

    def run(calls: int) -> None:
        for call in range(calls):
            made = generator.generate(asked, generation.key_of_seed(call))
            assert len(made) == len(asked), len(made)

    start = time.perf_counter()
    run(1)
    compiled = time.perf_counter() - start
    seconds = timing.take_turns(
        {"final": run}, repeats=size.repeats, min_seconds=0, warmup=0
    )
    described = timing.describe(seconds["final"])
    return {
        "num_samples": len(asked),
        "batch_size": generator.batch_size,
        "dtype": "float32",
        "mean_sites": float(np.mean([orbit_generation.size_of(r)[1] for r in asked])),
        "mean_orbits": float(np.mean([orbit_generation.size_of(r)[0] for r in asked])),
        "first_call_seconds": compiled,
        "seconds_per_call": described,
        "final_crystals_per_second": len(asked) / described["median"],
    }
