"""Relaxation of many alloys in batches, with EMT."""

import jax
from batched_relaxation import benchmark
from gpu.measurement import Measurement

from crystaljax.relaxation import ase_relaxation, batches

CALCULATOR = "emt"


def relaxation(measurement: Measurement) -> None:
    """Distorted alloys, cell and sites; the first time with compilation, then warm."""
    crystals = benchmark.make_crystals(measurement.size.num_relaxed, seed=0)
    settings = ase_relaxation.RelaxationSettings(
        fmax=benchmark.FMAX, max_steps=benchmark.MAX_STEPS
    )

    def relax(crystals):
        found = dict(batches.relax_each(crystals, CALCULATOR, settings))
        return [found[i] for i in range(len(crystals))]

    for state in ("with compilation", "warm", "warm"):
        relaxed, wall, cpu = benchmark.timed(relax, crystals)
        measurement.add(
            "relaxation",
            state=state,
            calculator=CALCULATOR,
            num_crystals=len(crystals),
            optimizer=settings.optimizer,
            fmax=settings.fmax,
            max_steps=settings.max_steps,
            dtype="float32",
            device=jax.devices()[0].device_kind,
            **benchmark.summary(relaxed, wall, cpu),
        )
