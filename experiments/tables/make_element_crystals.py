"""Makes the table of the elements' ground-state crystals.

    python experiments/tables/make_element_crystals.py

Writes ``crystaljax/relaxation/tables/element_crystals.json``: for each of the 89
elements that the common potentials know, the crystals of which one is its ground state.
Where two are within a few meV/atom of each other, so that potentials and functionals do
not agree (Ti, Sn, Ce, …), both are there, and the lower one counts. They are only where
relaxations start.

Sources. Lattice parameters of simple structures: J. Donohue, The Structures of the
Elements (Wiley, 1974), and C. Kittel, Introduction to Solid State Physics, rounded to
0.01 Å. All others: the AFLOW Library of Crystallographic Prototypes (M. J. Mehl et al.,
Comput. Mater. Sci. 136, S1 (2017)), of which pymatgen ships the crystals. Gases and
halogens are crystals of their molecules, with the bond lengths of the free molecule
(K. P. Huber and G. Herzberg, Constants of Diatomic Molecules, 1979): the lattice energy
of these crystals is some 10 to 100 meV per molecule, and semilocal functionals have
little of it.
"""

import gzip
import json
import pathlib

import numpy as np
import pymatgen.analysis.prototypes
from pymatgen.core import Lattice, Structure

OUTPUT = (
    pathlib.Path(__file__).parents[2]
    / "crystaljax/relaxation/tables/element_crystals.json"
)
DONOHUE = "Donohue 1974, Kittel"
AFLOW = "AFLOW prototype "
HUBER = "bond length: Huber and Herzberg 1979; packing: "

# a in Å.
FCC = {
    **{"Ne": 4.46, "Ar": 5.31, "Kr": 5.65, "Xe": 6.13, "Al": 4.05, "Ca": 5.58},
    **{"Sr": 6.08, "Ni": 3.52, "Cu": 3.61, "Rh": 3.80, "Pd": 3.89, "Ag": 4.09},
    **{"Ir": 3.84, "Pt": 3.92, "Au": 4.08, "Pb": 4.95, "Ce": 4.85, "Yb": 5.49},
    **{"Ac": 5.67, "Th": 5.08},
}
BCC = {
    **{"Li": 3.49, "Na": 4.23, "K": 5.23, "Rb": 5.59, "Cs": 6.05, "Ba": 5.02},
    **{"V": 3.03, "Nb": 3.30, "Ta": 3.30, "Cr": 2.88, "Mo": 3.15, "W": 3.16},
    **{"Fe": 2.87, "Eu": 4.58},
}
# a and c in Å.
HCP = {
    **{"He": (3.57, 5.83), "Be": (2.29, 3.58), "Mg": (3.21, 5.21)},
    **{"Sc": (3.31, 5.27), "Ti": (2.95, 4.68), "Co": (2.51, 4.07)},
    **{"Zn": (2.66, 4.95), "Y": (3.65, 5.73), "Zr": (3.23, 5.15)},
    **{"Tc": (2.74, 4.39), "Ru": (2.70, 4.28), "Cd": (2.98, 5.62)},
    **{"Gd": (3.63, 5.78), "Tb": (3.60, 5.70), "Dy": (3.59, 5.65)},
    **{"Ho": (3.58, 5.62), "Er": (3.56, 5.59), "Tm": (3.54, 5.55)},
    **{"Lu": (3.50, 5.55), "Hf": (3.20, 5.06), "Re": (2.76, 4.46)},
    **{"Os": (2.74, 4.32), "Tl": (3.46, 5.53)},
}
DOUBLE_HCP = {
    **{"La": (3.77, 12.17), "Ce": (3.68, 11.86), "Pr": (3.67, 11.83)},
    **{"Nd": (3.66, 11.80), "Pm": (3.65, 11.65)},
}
DIAMOND = {"C": 3.57, "Si": 5.43, "Ge": 5.66, "Sn": 6.49}
# Of pymatgen's AFLOW prototypes: (name, element it is given for, mineral), a factor for
# lengths where it is another element's.
PROTOTYPES = {
    "B": [("A_hR12_166_2h", "B", "alpha boron", 1.0)],
    "C": [("A_hP4_194_bc", "C", "Graphite", 1.0)],
    "N": [("A_cP8_205_c", "N", "Cubic alpha N2", 1.0)],
    "O": [("A_mC4_12_i", "O", "alpha oxygen", 1.0)],
    "P": [("A_oC8_64_f", "P", "black P", 1.0)],
    "S": [("A_oF128_70_4h", "S", "alpha", 1.0)],
    "Mn": [("A_cI58_217_ac2g", "Mn", "alpha", 1.0)],
    "Ga": [("A_oC8_64_f", "Ga", "alpha", 1.0)],
    "As": [("A_hR2_166_c", "As", "alpha As", 1.0)],
    "Se": [("A_hP3_152_a", "Se", "alpha Selenium", 1.0)],
    "Sn": [("A_tI4_141_a", "Sn", "beta Sn", 1.0)],
    "Sb": [("A_hR2_166_c", "As", "alpha As", 1.13)],
    "Bi": [("A_hR2_166_c", "As", "alpha As", 1.18)],
    "Sm": [("A_hR3_166_ac", "Sm", "alpha Samarium", 1.0)],
    "Hg": [("A_hR1_166_a", "Hg", "alpha", 1.0)],
    "Pa": [("A_tI2_139_a", "Pa", "Protactinium", 1.0)],
    "U": [("A_oC4_63_c", "U", "alpha U", 1.0)],
    "Np": [("A_oP8_62_2c", "Np", "alpha Np", 1.0)],
    "Pu": [("A_mP16_11_8e", "Pu", "alpha Pu", 1.0)],
}
# Molecules A2: bond in Å, a in Å of a cubic cell of four in the packing of N2 (Pa-3).
CUBIC_MOLECULES = {"H": (0.741, 5.31), "F": (1.412, 5.04)}
# Halogens, Cmce: a, b, c in Å, y and z of 8f. Donohue 1974.
HALOGENS = {
    "Cl": (6.24, 4.48, 8.26, 0.117, 0.102),
    "Br": (6.74, 4.55, 8.76, 0.135, 0.110),
    "I": (7.18, 4.71, 9.81, 0.154, 0.117),
}
THIRD = 1 / 3


def read_prototypes():
    """(name, element, mineral) → lattice, coordinates of pymatgen's prototypes."""
    folder = pathlib.Path(next(iter(pymatgen.analysis.prototypes.__path__)))
    with gzip.open(folder / "aflow_prototypes.json.gz") as file:
        entries = json.load(file)
    found = {}
    for entry in entries:
        snl, tags = entry["snl"], entry["tags"]
        symbols = {s["element"] for site in snl["sites"] for s in site["species"]}
        key = (tags["aflow"], min(symbols), tags["mineral"])
        coords = [site["abc"] for site in snl["sites"]]
        found[key] = (np.array(snl["lattice"]["matrix"]), np.array(coords))
    return found


def hexagonal(a, c):
    """Lattice of hexagonal axes."""
    return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])


def primitive(space_group, lattice, coords):
    """Primitive cell of a crystal of one species (its symbol does not matter)."""
    whole = Structure.from_spacegroup(space_group, lattice, ["C"], [coords])
    found = whole.get_primitive_structure()
    return found.lattice.matrix, found.frac_coords


def build():
    """Yields symbol, structure, source, lattice, coordinates."""
    prototypes = read_prototypes()
    for symbol, a in FCC.items():
        yield symbol, "fcc", DONOHUE, (1 - np.eye(3)) * a / 2, [[0, 0, 0]]
    for symbol, a in BCC.items():
        yield symbol, "bcc", DONOHUE, (0.5 - np.eye(3)) * a, [[0, 0, 0]]
    for symbol, (a, c) in HCP.items():
        sites = [[THIRD, 2 * THIRD, 0.25], [2 * THIRD, THIRD, 0.75]]
        yield symbol, "hcp", DONOHUE, hexagonal(a, c), sites
    for symbol, (a, c) in DOUBLE_HCP.items():
        sites = [[0, 0, 0], [0, 0, 0.5]]
        sites += [[THIRD, 2 * THIRD, 0.25], [2 * THIRD, THIRD, 0.75]]
        yield symbol, "double hcp", DONOHUE, hexagonal(a, c), sites
    for symbol, a in DIAMOND.items():
        sites = [[0, 0, 0], [0.25, 0.25, 0.25]]
        yield symbol, "diamond", DONOHUE, (1 - np.eye(3)) * a / 2, sites
    # The lowest with PBE, against hcp in experiment.
    sites = [[0, 0, 0], [THIRD, 2 * THIRD, 0.5], [2 * THIRD, THIRD, 0.5]]
    yield "Ti", "omega", DONOHUE, hexagonal(4.60, 2.82), sites
    centred = np.array([[3.25, 0, 0], [0, 3.25, 0], [1.625, 1.625, 2.475]])
    yield "In", "body-centred tetragonal", DONOHUE, centred, [[0, 0, 0]]
    x = 0.264
    sites = [[x, 0, THIRD], [0, x, 2 * THIRD], [-x, -x, 0]]
    yield "Te", "helices, P3_121", DONOHUE, hexagonal(4.456, 5.921), sites
    for symbol, choices in PROTOTYPES.items():
        for name, of, mineral, factor in choices:
            lattice, coords = prototypes[name, of, mineral]
            source = f"{AFLOW}{name} ({mineral or of})"
            if of != symbol:
                source += f", lengths of {of} times {factor}"
            yield symbol, name, source, lattice * factor, coords
    for symbol, (bond, a) in CUBIC_MOLECULES.items():
        u = bond / (2 * np.sqrt(3) * a)
        lattice, coords = primitive("Pa-3", Lattice.cubic(a), [u, u, u])
        yield symbol, "molecules, Pa-3", f"{HUBER}of N2", lattice, coords
    for symbol, (a, b, c, y, z) in HALOGENS.items():
        lattice, coords = primitive("Cmce", Lattice.orthorhombic(a, b, c), [0, y, z])
        yield symbol, "molecules, Cmce", DONOHUE, lattice, coords


def main():
    """Writes the table."""
    rows = [
        {
            "symbol": symbol,
            "structure": structure,
            "source": source,
            "lattice": np.round(np.asarray(lattice, float), 5).tolist(),
            "frac_coords": (np.round(np.asarray(coords, float), 6) % 1).tolist(),
        }
        for symbol, structure, source, lattice, coords in build()
    ]
    rows.sort(key=lambda row: (row["symbol"], row["structure"]))
    lines = ",\n ".join(json.dumps(row) for row in rows)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(f"[{lines}]\n")
    elements = {row["symbol"] for row in rows}
    print(f"{len(rows)} crystals of {len(elements)} elements: {OUTPUT}")


if __name__ == "__main__":
    main()
