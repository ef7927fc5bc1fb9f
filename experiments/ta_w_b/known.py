"""Writes the known crystals of Ta-W-B: elements, borides, Ta-W.

    python experiments/ta_w_b/known.py runs/ta_w_b/known.extxyz

Prototypes with parameters as published, sources beside them; they are where relaxations
start. Ta5B6 is put together from the slabs of TaB and Ta3B4 that it consists of. Left
out: the boron-rich W(1-x)B3, whose sites are partly occupied.
"""

import pathlib
import sys

import ase
import ase.io
import numpy as np
from ase.spacegroup import crystal

from crystaljax.crystals import bridge
from crystaljax.relaxation import references

KIESSLING_TA = "R. Kiessling, Acta Chem. Scand. 3, 603 (1949)"
KIESSLING_W = "R. Kiessling, Acta Chem. Scand. 1, 893 (1947)"
OKADA = "S. Okada, K. Kudou, T. Lundstrom, Jpn. J. Appl. Phys. 34, 226 (1995)"
ROMANS = "P. A. Romans, M. P. Krug, Acta Cryst. 20, 313 (1966)"
THIRD = 1 / 3

# id: (source, symbols, coordinates, space group, setting, lengths and angles).
COMPOUNDS = {
    "TaB CrB-type": (
        KIESSLING_TA,
        ("Ta", "B"),
        [(0, 0.146, 0.25), (0, 0.440, 0.25)],
        (63, 1),
        (3.276, 8.669, 3.157, 90, 90, 90),
    ),
    "TaB2 AlB2-type": (
        KIESSLING_TA,
        ("Ta", "B"),
        [(0, 0, 0), (THIRD, 2 * THIRD, 0.5)],
        (191, 1),
        (3.098, 3.098, 3.227, 90, 90, 120),
    ),
    "Ta3B4": (
        KIESSLING_TA,
        ("Ta", "Ta", "B", "B"),
        [(0.5, 0.5, 0), (0, 0.180, 0), (0, 0.375, 0), (0, 0.444, 0.5)],
        (71, 1),
        (3.29, 14.0, 3.13, 90, 90, 90),
    ),
    "Ta5B6 V5B6-type": (
        "slabs of TaB and Ta3B4 in turns, as in V5B6",
        ("Ta", "Ta", "Ta", "B", "B", "B"),
        [
            (0, 0, 0.5),
            (0.5, 0.1116, 0.5),
            (0, 0.194, 0),
            (0, 0.0775, 0),
            (0.5, 0.0347, 0),
            (0.5, 0.227, 0.5),
        ],
        (65, 1),
        # Both together are 8.669 + 14.0 Å high.
        (3.14, 22.67, 3.28, 90, 90, 90),
    ),
    "Ta2B CuAl2-type": (
        KIESSLING_TA,
        ("Ta", "B"),
        [(0.169, 0.669, 0), (0, 0, 0.25)],
        (140, 1),
        (5.778, 5.778, 4.864, 90, 90, 90),
    ),
    "Ta3B2 U3Si2-type": (
        "U3Si2-type, as in P. Villars, Pearson's Handbook (1991)",
        ("Ta", "Ta", "B"),
        [(0, 0, 0), (0.182, 0.682, 0.5), (0.389, 0.889, 0)],
        (127, 1),
        (6.184, 6.184, 3.284, 90, 90, 90),
    ),
    "W2B CuAl2-type": (
        KIESSLING_W,
        ("W", "B"),
        [(0.169, 0.669, 0), (0, 0, 0.25)],
        (140, 1),
        (5.568, 5.568, 4.744, 90, 90, 90),
    ),
    "WB MoB-type (alpha)": (
        KIESSLING_W,
        ("W", "B"),
        [(0, 0, 0.197), (0, 0, 0.352)],
        (141, 1),
        (3.115, 3.115, 16.92, 90, 90, 90),
    ),
    "WB CrB-type (beta)": (
        "B. Post, F. W. Glaser, J. Chem. Phys. 20, 1050 (1952)",
        ("W", "B"),
        [(0, 0.146, 0.25), (0, 0.440, 0.25)],
        (63, 1),
        (3.19, 8.40, 3.07, 90, 90, 90),
    ),
    "WB2 W2B4-type (W2B5 of older work)": (
        OKADA,
        ("W", "B", "B", "B"),
        [
            (THIRD, 2 * THIRD, 0.139),
            (0, 0, 0.25),
            (THIRD, 2 * THIRD, 0.75),
            (THIRD, 2 * THIRD, 0.972),
        ],
        (194, 1),
        (2.986, 2.986, 13.896, 90, 90, 120),
    ),
    "WB2 AlB2-type": (
        "H. P. Woods, F. E. Wawner, B. G. Fox, Science 151, 75 (1966)",
        ("W", "B"),
        [(0, 0, 0), (THIRD, 2 * THIRD, 0.5)],
        (191, 1),
        (3.02, 3.02, 3.05, 90, 90, 120),
    ),
    "WB2 ReB2-type (not made)": (
        "prototype: S. La Placa, B. Post, Acta Cryst. 15, 97 (1962)",
        ("W", "B"),
        [(THIRD, 2 * THIRD, 0.25), (THIRD, 2 * THIRD, 0.548)],
        (194, 1),
        (2.92, 2.92, 7.72, 90, 90, 120),
    ),
    "WB3 (WB4 of older work, without B2)": (
        ROMANS,
        ("W", "W", "B"),
        [(0, 0, 0.25), (THIRD, 2 * THIRD, 0.25), (THIRD, 0, 0)],
        (194, 1),
        (5.20, 5.20, 6.34, 90, 90, 120),
    ),
    "WB4": (
        ROMANS,
        ("W", "W", "B", "B"),
        [
            (0, 0, 0.25),
            (THIRD, 2 * THIRD, 0.25),
            (THIRD, 0, 0),
            (THIRD, 2 * THIRD, 0.615),
        ],
        (194, 1),
        (5.20, 5.20, 6.34, 90, 90, 120),
    ),
    "TaB2 ReB2-type (not made)": (
        "prototype: S. La Placa, B. Post, Acta Cryst. 15, 97 (1962)",
        ("Ta", "B"),
        [(THIRD, 2 * THIRD, 0.25), (THIRD, 2 * THIRD, 0.548)],
        (194, 1),
        (3.0, 3.0, 8.0, 90, 90, 120),
    ),
    "TaW CsCl-type (solid solution in experiment)": (
        "T. B. Massalski, Binary Alloy Phase Diagrams (1990): bcc at all compositions",
        ("Ta", "W"),
        [(0, 0, 0), (0.5, 0.5, 0.5)],
        (221, 1),
        (3.24, 3.24, 3.24, 90, 90, 90),
    ),
}


def build() -> list[ase.Atoms]:
    """The crystals, with name and source in ``info``."""
    found = []
    for name, (source, symbols, basis, (group, setting), cell) in COMPOUNDS.items():
        atoms = crystal(
            symbols,
            basis=basis,
            spacegroup=group,
            setting=setting,
            cellpar=cell,
            primitive_cell=True,
        )
        atoms = ase.Atoms(
            atoms.numbers,
            scaled_positions=atoms.get_scaled_positions(),
            cell=atoms.cell,
            pbc=True,
        )
        atoms.info = {"name": name, "source": source}
        found.append(atoms)
    for symbol, number in (("B", 5), ("Ta", 73), ("W", 74)):
        for each in references.reference_crystals("chgnet", number):
            atoms = bridge.to_ase(each)
            atoms.info = {"name": symbol, "source": "table of the elements"}
            found.append(atoms)
    return found


def main():
    """Writes them, and prints what they are."""
    found = build()
    for atoms in found:
        distances = atoms.get_all_distances(mic=True)
        np.fill_diagonal(distances, np.inf)
        print(
            f"{atoms.info['name']:<44} {atoms.get_chemical_formula():<8} "
            f"{atoms.get_volume() / len(atoms):6.2f} Å³ an atom, shortest distance "
            f"{distances.min():.2f} Å"
        )
    path = pathlib.Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, found)


if __name__ == "__main__":
    main()
