"""What went in and what came out, side by side.

    crystaljax sample --template=host.cif --keep=all --formulas=LiCoO2 --output=filled
    python experiments/keep_a_part/draw.py --input=host.cif --samples=filled \
        --output=filled.png

Each crystal with its formula and space group (spglib, 0.01 Å); for what came out the
estimated energy. Sites are repeated at the faces of the cell.
"""

import argparse
import itertools
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import ase
import ase.io
import numpy as np
from ase.visualize import plot
from matplotlib import pyplot

from crystaljax.crystals import (
    bridge,
    elements,
    inputs,
    space_groups,
    structure,
    structure_files,
    symmetry_search,
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--rows", default="0,1,2", help="of the table, from 0")
    parser.add_argument("--rotation", default="-80x,15y,0z")
    args = parser.parse_args()
    found, _ = inputs.read_inputs(args.input)
    table = structure_files.read_table(args.samples / "samples.parquet")
    made: Any = ase.io.read(args.samples / "samples.extxyz", index=":")
    shown = [(found[0].crystal, "in: ", "")]
    for number in map(int, args.rows.split(",")):
        atoms = made[number]
        text = f"estimated {table['estimated_energy'][number]:.2f} eV/atom"
        if "estimated_difference" in table:
            text += f" ({table['estimated_difference'][number]:+.2f})"
        if "origin" in table and table["origin"][number] == "decorated":
            text += "\ndecorated"
        elif "probability" in table:
            text += f"\nlikely {table['probability'][number]:.0%}"
        if "same_as_input" in table and table["same_as_input"][number]:
            text += "\nas the input"
        shown.append((bridge.from_ase(atoms), "out: ", text))
    figure, places = pyplot.subplots(
        1, len(shown), figsize=(2.6 * len(shown), 3.0), squeeze=False
    )
    symbols = space_groups.load_space_group_symbols()
    for place, (crystal, direction, text) in zip(places[0], shown, strict=True):
        plot.plot_atoms(with_faces(crystal), place, rotation=args.rotation, radii=0.35)
        place.set_axis_off()
        group = symmetry_search.find_space_group(crystal, 0.01)
        formula = elements.reduced_formula(crystal.atomic_numbers)
        place.set_title(
            f"{direction}{formula}, {symbols[group]}\n{text}", fontsize=6.5, loc="left"
        )
    figure.savefig(args.output, dpi=90, bbox_inches="tight")


def with_faces(crystal: structure.Crystal) -> ase.Atoms:
    """The sites of a cell, those on its faces on all of these."""
    numbers, coords = [], []
    for number, place in zip(
        crystal.atomic_numbers, structure.wrap_sites(crystal.frac_coords), strict=True
    ):
        for shift in itertools.product((-1, 0, 1), repeat=3):
            image = place + shift
            if (image > -0.01).all() and (image < 1.01).all():
                numbers.append(int(number))
                coords.append(image)
    return ase.Atoms(
        numbers=numbers,
        positions=np.array(coords) @ crystal.lattice,
        cell=crystal.lattice,
        pbc=True,
    )


if __name__ == "__main__":
    main()
