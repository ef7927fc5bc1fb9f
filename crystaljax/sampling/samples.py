"""Crystals with what was requested: as a table, on the screen, and as files."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from crystaljax.crystals import elements, space_groups, structure
from crystaljax.sampling import conditions as conditions_lib

# Samples that are shown on the screen.
_NUM_SHOWN = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Crystals with what was requested.

    Attributes:
        crystals: one per sample, in order.
        conditions: one per sample.
        notes: for the user: where the conditions lie outside what the model saw, ….
        provenance: checkpoint, seed and sampler, the same for all.
        inputs: names of the crystals that were modified, one per sample; None in
            generation.
        columns: what else the table says of each sample, by name.
        first: number of the first sample, where these are a part of a request.
        num_in_all: samples of the request; these if None.
    """

    crystals: list[structure.Crystal]
    conditions: conditions_lib.Conditions
    notes: list[str]
    provenance: dict[str, Any]
    inputs: list[str] | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    first: int = 0
    num_in_all: int | None = None

    def numbers(self) -> list[int]:
        """Number of each sample in the request."""
        return list(range(self.first, self.first + len(self.crystals)))

    def names(self) -> list[str]:
        """One name per sample: its number, formula and space group."""
        num_in_all = self.num_in_all or len(self.crystals)
        digits = len(str(max(num_in_all - 1, 0)))
        return [
            f"{i:0{digits}d}_{elements.cell_formula(crystal.atomic_numbers)}_sg{group}"
            for i, crystal, group in zip(
                self.numbers(),
                self.crystals,
                self.conditions.space_group,
                strict=True,
            )
        ]

    def condition_columns(self) -> dict[str, list[Any]]:
        """What was asked of each sample, by name."""
        # Back from float32 to the decimal that was requested.
        energies = [float(str(energy)) for energy in np.asarray(self.conditions.energy)]
        columns: dict[str, list[Any]] = {
            "formula": [
                elements.cell_formula(crystal.atomic_numbers)
                for crystal in self.crystals
            ],
            "space_group": np.asarray(self.conditions.space_group).tolist(),
        }
        if self.inputs is None:
            columns |= {"formation_energy": energies}
        else:
            columns |= {"energy_difference": energies, "input": self.inputs}
        return columns | {name: each.tolist() for name, each in self.columns.items()}

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per sample: name, conditions, cell, provenance."""
        lattices = np.array([crystal.lattice for crystal in self.crystals])
        parameters = structure.lattice_parameters(lattices)
        columns: dict[str, list[Any]] = {
            "name": self.names(),
            "sample": self.numbers(),
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


def format_samples(samples: Samples) -> list[str]:
    """The first samples of a model of orbits, as lines for the screen."""
    symbols, table = space_groups.load_space_group_symbols(), samples.table()
    # Formation energies, eV/atom, by their heads.
    energies = {"requested": table["formation_energy"]}
    for head in ("estimated", "judged"):
        if f"{head}_energy" in table:
            energies[head] = table[f"{head}_energy"]
    heads = "".join(f"{head:>10}" for head in energies)
    lines = [
        f"{'formula':<16}{'space group':<16}{heads}  {'a, b, c (Å)':<22}"
        f"{'likely':>7}  Wyckoff positions"
    ]
    for row in range(min(len(samples.crystals), _NUM_SHOWN)):
        group = table["space_group"][row]
        lengths = ", ".join(f"{table[name][row]:.2f}" for name in ("a", "b", "c"))
        shown = "".join(f"{values[row]:>10.3f}" for values in energies.values())
        lines.append(
            f"{table['formula'][row]:<16}{f'{symbols[group]} ({group})':<16}{shown}  "
            f"{lengths:<22}{table['probability'][row]:>7.0%}  "
            f"{table['wyckoff_positions'][row]}{_remark(table, row)}"
        )
    if len(samples.crystals) > _NUM_SHOWN:
        lines.append("…")
    state = "As generated: neither relaxed nor known to be stable."
    if "judged" in energies:
        state = "Relaxed, and not known to be stable."
    what = " and ".join(energies)
    return [*lines, f"{what}: formation energy, eV/atom. {state}"]


def _remark(table: Mapping[str, Any], row: int) -> str:
    """What a candidate for a polymorph is, where it is no new one."""
    is_decorated = "origin" in table and table["origin"][row] == "decorated"
    if is_decorated:
        return "  (the input's prototype)"
    is_same = "same_as_input" in table and table["same_as_input"][row]
    return "  (the input again)" if is_same else ""


def write_samples(
    samples: Samples,
    output: str | pathlib.Path,
    *,
    cifs: str = "folder",
    table_cifs: bool = False,
    overwrite: bool = False,
    part: str = "",
) -> list[str]:
    """Writes extxyz, CIFs and tables into a folder.

    Args:
        samples: what to write.
        output: the folder.
        cifs: "folder" (``cifs/``), "zip" (``cifs.zip``) or "none".
        table_cifs: put each crystal's CIF into the CSV too, as ``cif_string``.
        overwrite: replace files of an earlier call.
        part: stands in the names of the files behind ``samples`` and ``cifs``.

    Returns:
        Names of the samples that are not finite or have no volume: they are rows of
        the table (``written`` is false), but have no crystal file.

    Raises:
        FileExistsError: the folder has such files and ``overwrite`` is False.
    """
    # Writers bring ASE and pymatgen, which sampling does without.
    from crystaljax.crystals import structure_files

    output = pathlib.Path(output)
    table = samples.table()
    names = table["name"]
    keys = ("name", "sample", *samples.condition_columns(), "seed")
    infos: list[dict[str, Any]] = [
        dict(zip(keys, row, strict=True))
        for row in zip(*(table[key] for key in keys), strict=True)
    ]
    output.mkdir(parents=True, exist_ok=True)
    left_out = structure_files.write_extxyz(
        output / f"samples{part}.extxyz", samples.crystals, infos, overwrite=overwrite
    )
    if cifs != "none":
        target = output / (f"cifs{part}.zip" if cifs == "zip" else f"cifs{part}")
        left_out = structure_files.write_cifs(
            target, samples.crystals, names, overwrite=overwrite
        )
    missing = set(left_out)
    table["written"] = [name not in missing for name in names]
    # In the CSV only: whoever reads the other files has the crystals as they are.
    texts = {}
    if table_cifs:
        texts["cif_string"] = structure_files.cif_texts(samples.crystals, names)
    # The last one says that the others are there too.
    for suffix, columns in (("csv", table | texts), ("parquet", table)):
        structure_files.write_table(
            output / f"samples{part}.{suffix}", columns, overwrite=overwrite
        )
    return list(left_out)
