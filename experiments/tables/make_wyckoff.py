"""Makes crystaljax/crystals/tables/wyckoff.csv from pyxtal's tables.

    pip install pyxtal
    python experiments/tables/make_wyckoff.py

takes some 20 s. pyxtal has the Wyckoff positions of the 230 groups in their standard
settings, with multiplicities in the conventional cell; divided by the lattice points of
that cell they are those in the primitive cell. tests/test_wyckoff.py derives the same
numbers from the operations of the groups alone.
"""

import importlib.metadata
import pathlib

import numpy as np
from pyxtal import symmetry as pyxtal_symmetry

from crystaljax.crystals import space_groups

TABLE = (
    pathlib.Path(__file__).parents[2]
    / "crystaljax"
    / "crystals"
    / "tables"
    / "wyckoff.csv"
)
# Lattice points in the conventional cell; R in hexagonal axes.
LATTICE_POINTS = {"P": 1, "A": 2, "B": 2, "C": 2, "I": 2, "R": 3, "F": 4}


def positions(number: int) -> list[tuple[str, int, int]]:
    """Letter, multiplicity in the primitive cell and degrees of freedom, from a on."""
    group = pyxtal_symmetry.Group(number)
    points = LATTICE_POINTS[space_groups.load_space_group_symbols()[number][0]]
    rows = []
    for position in group:
        multiplicity, rest = divmod(position.multiplicity, points)
        assert rest == 0, (number, position.letter)
        # Coordinates that are free: the rank of the linear part of the first operation.
        linear = position.ops[0].rotation_matrix
        freedom = int(np.linalg.matrix_rank(linear))
        assert freedom == position.get_dof()
        rows.append((position.letter, multiplicity, freedom))
    # pyxtal starts with the general position, whose letter is the last.
    return rows[::-1]


def main() -> None:
    """Makes the table."""
    lines = [
        f"# Wyckoff positions, from pyxtal {importlib.metadata.version('pyxtal')} by "
        "experiments/tables/make_wyckoff.py.",
        "# multiplicity: sites in the primitive cell. freedom: coordinates that are "
        "free, 0 to 3.",
        "space_group,letter,multiplicity,freedom",
    ]
    for number in range(1, space_groups.NUM_SPACE_GROUPS + 1):
        lines += [f"{number},{','.join(map(str, row))}" for row in positions(number)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(lines) - 3} positions, {TABLE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
