"""Samples crystals with a wanted composition, space group and formation energy.

    python -m crystaljax.sample --workdir=runs/smoke --formulas=Cu3Au1,Ni2Pt2 \
        --space_groups=seen --energies=-0.05:0.05:0.01 --num_samples=4 \
        --output=samples

Every combination is sampled ``--num_samples`` times. The output folder holds
``samples.extxyz`` (conditions in ``info``), the crystals as CIFs, and
``samples.csv`` and ``samples.parquet`` with one row per sample.
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from crystaljax import (
    build,
    command_line,
    conditions,
    elements,
    generation,
    parallel,
    runs,
    structure,
)


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """What to sample; see the flags of the command.

    Attributes:
        workdir: the run directory.
        formulas: of the cells, such as ("Cu3Au1",).
        space_groups: "all", "seen", or numbers and symbols, comma-separated.
        energies: formation energies in eV/atom: values and ranges start:stop:step.
        num_samples: samples of each combination.
        seed: of the samples.
        num_steps: network evaluations; as in the run's config if None.
        eta: of DDIM; as in the run's config if None.
        batch_size: samples at a time; as in the run's config if None.
        checkpoint: step; the newest if None.
    """

    workdir: str
    formulas: tuple[str, ...]
    space_groups: str = "seen"
    energies: str = "0"
    num_samples: int = 1
    seed: int = 0
    num_steps: int | None = None
    eta: float | None = None
    batch_size: int | None = None
    checkpoint: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Crystals with what was asked for.

    Attributes:
        crystals: one per sample, in order.
        conditions: one per sample.
        notes: where the conditions lie outside what the model saw.
        provenance: checkpoint, seed and sampler, the same for all.
    """

    crystals: list[structure.Crystal]
    conditions: conditions.Conditions
    notes: list[str]
    provenance: dict[str, Any]

    def names(self) -> list[str]:
        """One name per sample: its number, formula and space group."""
        digits = len(str(max(len(self.crystals) - 1, 0)))
        return [
            f"{i:0{digits}d}_{elements.cell_formula(crystal.atomic_numbers)}_sg{group}"
            for i, (crystal, group) in enumerate(
                zip(self.crystals, self.conditions.space_group, strict=True)
            )
        ]

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per sample: name, conditions, cell, provenance."""
        lattices = np.array([crystal.lattice for crystal in self.crystals])
        parameters = structure.lattice_parameters(lattices)
        columns: dict[str, list[Any]] = {
            "name": self.names(),
            "sample": list(range(len(self.crystals))),
            "formula": [
                elements.cell_formula(crystal.atomic_numbers)
                for crystal in self.crystals
            ],
            "num_sites": np.asarray(self.conditions.num_sites).tolist(),
            "space_group": np.asarray(self.conditions.space_group).tolist(),
            # Back from float32 to the decimal that was asked for.
            "formation_energy": [
                float(str(energy)) for energy in np.asarray(self.conditions.energy)
            ],
            "volume": np.abs(np.linalg.det(lattices)).tolist(),
        }
        for name, values in zip(
            ("a", "b", "c", "alpha", "beta", "gamma"), parameters.T, strict=True
        ):
            columns[name] = values.tolist()
        for name, value in self.provenance.items():
            columns[name] = [value] * len(self.crystals)
        return columns


def sample(options: SampleOptions, *, show_progress: bool = False) -> Samples:
    """Checks the conditions, then samples.

    Raises:
        FileNotFoundError: no run or checkpoint.
        ValueError: an element that the model never saw, a formula too large for it, a
            space group outside 1-230, or unreadable energies; all before anything is
            computed.
    """
    workdir = pathlib.Path(options.workdir)
    config = build.override_sampler(
        runs.load_config(workdir), options.num_steps, options.eta
    )
    vocabulary = runs.load_vocabulary(workdir)
    sites = structure.max_sites(config.data.rows)
    for formula in options.formulas:
        conditions.check_formula(formula, vocabulary, sites)
    asked = conditions.combine(
        options.formulas,
        conditions.parse_space_groups(options.space_groups, vocabulary),
        conditions.parse_energies(options.energies),
        options.num_samples,
        sites,
    )
    sample_fn = build.build_sampler(config)
    mesh = parallel.build_mesh()
    batch_size = options.batch_size or config.evaluation.batch_size
    parallel.require_divisible(batch_size, mesh)

    run = runs.load_run(workdir, mesh, options.checkpoint)
    generate_fn = generation.build_generate_fn(
        run.model, sample_fn, run.scale, config.data.rows, mesh
    )
    crystals = generation.generate(
        generate_fn,
        run.params,
        asked,
        generation.key_of_seed(options.seed),
        mesh=mesh,
        batch_size=batch_size,
        description="sample" if show_progress else None,
    )
    return Samples(
        crystals=crystals,
        conditions=asked,
        notes=conditions.outside_training(asked, vocabulary),
        provenance={
            "workdir": str(workdir),
            "checkpoint": run.step,
            "seed": options.seed,
            "sampler": config.sampler.name,
            "num_steps": config.sampler.num_steps,
            "eta": config.sampler.eta,
            "energy_model": vocabulary.get("energy_model") or "unknown",
        },
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
    keys = ("name", "sample", "formula", "space_group", "formation_energy", "seed")
    infos: list[dict[str, Any]] = [
        dict(zip(keys, row, strict=True))
        for row in zip(*(table[k] for k in keys), strict=True)
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


def main() -> None:
    """Command line."""
    defaults = SampleOptions(workdir="", formulas=())
    values = {
        "workdir": flags.DEFINE_string(
            "workdir", None, "Run directory to sample from."
        ),
        "formulas": flags.DEFINE_list(
            "formulas", None, "Formulas of the cells, such as Cu3Au1,Ni2Pt2."
        ),
        "space_groups": flags.DEFINE_string(
            "space_groups",
            defaults.space_groups,
            "'all' (1-230), 'seen' (those of the training structures), or numbers and "
            "symbols such as 221,P4/mmm.",
        ),
        "energies": flags.DEFINE_string(
            "energies",
            defaults.energies,
            "Formation energies, eV/atom: values and ranges start:stop:step (both ends "
            "included), such as -0.3,-0.05:0.05:0.01.",
        ),
        "num_samples": flags.DEFINE_integer(
            "num_samples", defaults.num_samples, "Samples of each combination.", 1
        ),
        "seed": flags.DEFINE_integer("seed", defaults.seed, "Seed of the samples.", 0),
    }
    values |= command_line.define_sampler_flags()
    output = flags.DEFINE_string("output", None, "Folder to write.")
    cifs = flags.DEFINE_enum(
        "cifs", "folder", ["folder", "zip", "none"], "How CIFs are written."
    )
    overwrite = flags.DEFINE_bool("overwrite", False, "Replace files in --output.")
    flags.mark_flags_as_required(["workdir", "formulas", "output"])

    def command():
        chosen = {name: flag.value for name, flag in values.items()}
        chosen["formulas"] = tuple(chosen["formulas"])
        folder = pathlib.Path(str(output.value))
        if not overwrite.value and (folder / "samples.csv").exists():
            raise FileExistsError(
                f"{folder} already holds samples; pass --overwrite, or choose another "
                "--output"
            )
        start = time.perf_counter()
        samples = sample(SampleOptions(**chosen), show_progress=True)
        seconds = time.perf_counter() - start
        left_out = write_samples(
            samples, folder, cifs=cifs.value, overwrite=overwrite.value
        )
        for note in samples.notes:
            print(f"note: {note}", file=sys.stderr)
        if left_out:
            print(
                f"note: {len(left_out)} samples are not finite or have no volume, and "
                "have no crystal file; the table marks them",
                file=sys.stderr,
            )
        print(
            f"{len(samples.crystals)} crystals in {seconds:.1f} s, start-up included, "
            f"in {folder}"
        )

    command_line.run(command)


if __name__ == "__main__":
    main()
