"""Pictures of samples, to be looked at before any number is believed.

    crystaljax sample --formulas=NaCl,TiO2 --output=samples
    python experiments/orbits/draw.py --samples=samples --output=pictures.png

Each crystal from two sides, with its formula, space group, Wyckoff positions, and the
shortest distance between two atoms as a share of the sum of their covalent radii.
"""

import argparse
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import ase.io
import numpy as np
from ase import neighborlist
from ase.data import covalent_radii
from ase.visualize import plot
from matplotlib import pyplot

from crystaljax.crystals import structure_files

SIDES = ("-80x,10y,0z", "-5x,-35y,5z")
NUM_COLUMNS = 5


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--num_crystals", type=int, default=20)
    args = parser.parse_args()
    table = structure_files.read_table(args.samples / "samples.parquet")
    crystals = ase.io.read(args.samples / "samples.extxyz", index=":")
    crystals = crystals[: args.num_crystals]
    rows = math.ceil(len(crystals) / NUM_COLUMNS)
    figure, places = pyplot.subplots(
        rows, 2 * NUM_COLUMNS, figsize=(3.2 * NUM_COLUMNS, 2.2 * rows), squeeze=False
    )
    for place in places.flat:
        place.set_axis_off()
    for number, atoms in enumerate(crystals):
        row, column = divmod(number, NUM_COLUMNS)
        shown = atoms * (2, 2, 2) if len(atoms) < 4 else atoms
        for side, rotation in enumerate(SIDES):
            place = places[row, 2 * column + side]
            plot.plot_atoms(shown, place, rotation=rotation, radii=0.4)
            place.set_axis_off()
        kind = "known" if table["follows_known"][number] else "drawn"
        places[row, 2 * column].set_title(
            f"{table['formula'][number]}  ({table['space_group'][number]}, {kind})\n"
            f"{table['wyckoff_positions'][number]}\n"
            f"{closest(atoms):.2f} of the radii",
            fontsize=6,
            loc="left",
        )
    figure.savefig(args.output, dpi=90, bbox_inches="tight")


def closest(atoms: ase.Atoms) -> float:
    """The shortest distance as a share of the sum of two covalent radii."""
    first, second, distances = neighborlist.neighbor_list("ijd", atoms, 6.0)
    radii = covalent_radii[atoms.numbers]
    return float(np.min(distances / (radii[first] + radii[second])))


if __name__ == "__main__":
    main()
