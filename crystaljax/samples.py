"""From checked conditions to files: what `sample` and `modify` share."""

import dataclasses
import pathlib
import sys
import time
from typing import Any

import numpy as np

from crystaljax import build, elements, generation, parallel, runs, structure
from crystaljax import conditions as conditions_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Crystals with what was asked for.

    Attributes:
        crystals: one per sample, in order.
        conditions: one per sample.
        notes: for the user: where the conditions lie outside what the model saw, ….
        provenance: checkpoint, seed and sampler, the same for all.
        inputs: names of the crystals that were modified, one per sample; None in
            generation.
    """

    crystals: list[structure.Crystal]
    conditions: conditions_lib.Conditions
    notes: list[str]
    provenance: dict[str, Any]
    inputs: list[str] | None = None

    def names(self) -> list[str]:
        """One name per sample: its number, formula and space group."""
        digits = len(str(max(len(self.crystals) - 1, 0)))
        return [
            f"{i:0{digits}d}_{elements.cell_formula(crystal.atomic_numbers)}_sg{group}"
            for i, (crystal, group) in enumerate(
                zip(self.crystals, self.conditions.space_group, strict=True)
            )
        ]

    def condition_columns(self) -> dict[str, list[Any]]:
        """What was asked of each sample, by name."""
        # Back from float32 to the decimal that was asked for.
        energies = [float(str(energy)) for energy in np.asarray(self.conditions.energy)]
        columns: dict[str, list[Any]] = {
            "formula": [
                elements.cell_formula(crystal.atomic_numbers)
                for crystal in self.crystals
            ],
            "space_group": np.asarray(self.conditions.space_group).tolist(),
        }
        if self.inputs is None:
            return columns | {"formation_energy": energies}
        return columns | {"energy_difference": energies, "input": self.inputs}

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per sample: name, conditions, cell, provenance."""
        lattices = np.array([crystal.lattice for crystal in self.crystals])
        parameters = structure.lattice_parameters(lattices)
        columns: dict[str, list[Any]] = {
            "name": self.names(),
            "sample": list(range(len(self.crystals))),
            **self.condition_columns(),
            "num_sites": np.asarray(self.conditions.num_sites).tolist(),
            "volume": np.abs(np.linalg.det(lattices)).tolist(),
        }
        for name, values in zip(
            ("a", "b", "c", "alpha", "beta", "gamma"), parameters.T, strict=True
        ):
            columns[name] = values.tolist()
        for name, value in self.provenance.items():
            columns[name] = [value] * len(self.crystals)
        return columns


def make_crystals(
    workdir: pathlib.Path,
    config: Any,
    asked: conditions_lib.Conditions,
    *,
    seed: int,
    batch_size: int | None,
    checkpoint: int | None,
    show_progress: bool,
) -> tuple[list[structure.Crystal], dict[str, Any]]:
    """Loads a run and samples one crystal per condition.

    Args:
        workdir: the run directory.
        config: of the run, with the sampler to use.
        asked: checked conditions.
        seed: of the samples.
        batch_size: samples at a time; the config's if None.
        checkpoint: step; the newest if None.
        show_progress: print a progress bar.

    Returns:
        The crystals, and where they come from: columns for the table.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: sampler settings out of range, or a batch size that cannot be split
            over the devices.
    """
    sample_fn = build.build_sampler(config)
    mesh = parallel.build_mesh()
    at_a_time: int = batch_size or config.evaluation.batch_size
    parallel.require_divisible(at_a_time, mesh)
    run = runs.load_run(workdir, mesh, checkpoint)
    generate_fn = generation.build_generate_fn(
        run.model, sample_fn, run.scale, config.data.rows, mesh
    )
    crystals = generation.generate(
        generate_fn,
        run.params,
        asked,
        generation.key_of_seed(seed),
        mesh=mesh,
        batch_size=at_a_time,
        description="sample" if show_progress else None,
    )
    return crystals, {
        "workdir": str(workdir),
        "checkpoint": run.step,
        "seed": seed,
        "sampler": config.sampler.name,
        "num_steps": config.sampler.num_steps,
        "eta": config.sampler.eta if config.sampler.name == "ddim" else None,
        "energy_model": run.vocabulary.get("energy_model") or "unknown",
    }


def require_new(output: str | pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError where `write_samples` would: ask before long work."""
    if not overwrite and (pathlib.Path(output) / "samples.csv").exists():
        raise FileExistsError(
            f"{output} already holds samples; pass --overwrite, or choose another "
            "--output"
        )


def write_samples(
    samples: Samples,
    output: str | pathlib.Path,
    *,
    cifs: str = "folder",
    overwrite: bool = False,
) -> list[str]:
    """Writes extxyz, CIFs and tables into a folder.

    Args:
        samples: what to write.
        output: the folder.
        cifs: "folder" (``cifs/``), "zip" (``cifs.zip``) or "none".
        overwrite: replace files of an earlier call.

    Returns:
        Names of the samples that are not finite or have no volume: they are rows of
        the table (``written`` is false), but have no crystal file.

    Raises:
        FileExistsError: the folder has such files and ``overwrite`` is False.
    """
    # Writers bring ASE and pymatgen, which sampling does without.
    from crystaljax import export

    output = pathlib.Path(output)
    table = samples.table()
    names = table["name"]
    keys = ("name", "sample", *samples.condition_columns(), "seed")
    infos: list[dict[str, Any]] = [
        dict(zip(keys, row, strict=True))
        for row in zip(*(table[key] for key in keys), strict=True)
    ]
    output.mkdir(parents=True, exist_ok=True)
    left_out = export.write_extxyz(
        output / "samples.extxyz", samples.crystals, infos, overwrite=overwrite
    )
    if cifs != "none":
        target = output / ("cifs.zip" if cifs == "zip" else "cifs")
        left_out = export.write_cifs(
            target, samples.crystals, names, overwrite=overwrite
        )
    table["written"] = [name not in set(left_out) for name in names]
    for suffix in ("csv", "parquet"):
        export.write_table(output / f"samples.{suffix}", table, overwrite=overwrite)
    return list(left_out)


def write_and_report(
    samples: Samples, output: str, cifs: str, overwrite: bool, start: float
) -> None:
    """What both commands that make crystals end with: files, notes, one line.

    Args:
        samples: what to write.
        output: see `write_samples`.
        cifs: see there.
        overwrite: see there.
        start: of the command, by `time.perf_counter`.
    """
    seconds = time.perf_counter() - start
    left_out = write_samples(samples, output, cifs=cifs, overwrite=overwrite)
    for note in samples.notes:
        print(f"note: {note}", file=sys.stderr)
    if left_out:
        print(
            f"note: {len(left_out)} samples are not finite or have no volume, and have "
            "no crystal file; the table marks them",
            file=sys.stderr,
        )
    print(
        f"{len(samples.crystals)} crystals in {seconds:.1f} s, start-up included, in "
        f"{output}"
    )
