"""Columns of a screening's table: names, units and meanings, in one place.

``screening.csv``, ``screening.parquet``, ``candidates.extxyz`` (where dots are
underscores), the manifest of an export and the HTML page have these columns, beside
what the inputs bring along. ``python -m crystaljax.screening.columns`` prints them.

What a column says is the first word of its name: what was *requested* of the sampler,
what was *generated*, what it *relaxed* to.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

# Å; at each a space group is looked for.
SYMPRECS = (0.1, 0.01, 0.001)
RELAXED_SYMPRECS = (0.1, 0.01)


class Column(str):
    """The name of a column, which knows more.

    Attributes:
        unit: "" for none.
        meaning: in words.
        former: its name up to release 0.1; "" if it is the same.
    """

    unit: str
    meaning: str
    former: str

    def __new__(cls, name: str, unit: str, meaning: str, former: str = "") -> "Column":
        """A column."""
        self = super().__new__(cls, name)
        self.unit, self.meaning, self.former = unit, meaning, former
        return self

    def describe(self) -> str:
        """Meaning and unit."""
        return self.meaning + (f" ({self.unit})" if self.unit else "")


NAME = Column("name", "", "of the crystal; no two are equal")
RANK = Column("rank", "", "1 for the best, 2, …; 0 for what was rejected")
FORMULA = Column("formula", "", "of the cell; the requested one if there is no crystal")
REQUESTED_SPACE_GROUP = Column(
    "requested_space_group", "", "number, 1-230", "space_group"
)
REQUESTED_ENERGY = Column(
    "requested_formation_energy",
    "eV/atom",
    "in the energies of the data that the model learned from",
    "formation_energy",
)
REQUESTED_DIFFERENCE = Column(
    "requested_energy_difference",
    "eV/atom",
    "to the crystal that was modified",
    "energy_difference",
)
REQUESTED_ABOVE_HULL = Column(
    "requested_energy_above_hull",
    "eV/atom",
    "where the requested energy was given above a hull",
    "energy_above_hull_asked",
)
INPUT = Column("input", "", "the crystal that was modified")
FILE = Column("file", "", "that the crystal was read from, where there are several")
CANDIDATE_FILE = Column(
    "candidate_file", "", "CIF in candidates/ and symmetrized/; empty if not ranked"
)
NUM_SITES = Column("num_sites", "", "sites of the cell")
VALID = Column("valid", "", "finite, at least 1 Å³, and no two atoms closer than 0.5 Å")
SHORTEST_DISTANCE = Column(
    "generated_shortest_distance",
    "Å",
    "between two atoms, as generated",
    "shortest_distance",
)
SHORTEST_DISTANCE_RATIO = Column(
    "generated_shortest_distance_ratio",
    "",
    "smallest distance over the sum of the two covalent radii, as generated",
    "shortest_distance_ratio",
)
VOLUME_PER_ATOM = Column(
    "generated_volume_per_atom", "Å³", "as generated", "volume_per_atom"
)
GENERATED_SPACE_GROUPS = tuple(
    Column(
        f"generated_space_group_{symprec:g}",
        "",
        f"found within {symprec:g} Å, as generated; 0 for none",
        f"space_group_found_{symprec:g}",
    )
    for symprec in SYMPRECS
)
RELAXED_SHORTEST_DISTANCE = Column(
    "relaxed_shortest_distance", "Å", "between two atoms of the relaxed crystal"
)
RELAXED_VOLUME_PER_ATOM = Column(
    "relaxed_volume_per_atom", "Å³", "of the relaxed crystal"
)
DUPLICATE_OF = Column("duplicate_of", "", "name of the equal crystal that is kept")
KNOWN_AS = Column("known_as", "", "id of the equal known crystal; empty if it is new")
NEAREST_KNOWN = Column(
    "nearest_known",
    "",
    "id of the known crystal that is nearest to the relaxed one: in composition, then "
    "in the distances between atoms; empty if there is none",
)
NEAREST_KNOWN_FORMULA = Column("nearest_known_formula", "", "its reduced formula")
NEAREST_KNOWN_DISTANCE = Column(
    "nearest_known_distance",
    "",
    "mean difference of the distances to the 12 nearest atoms of each element, in "
    "units of the cube root of the volume per atom; 0 for the same",
)
UNIQUE = Column(
    "unique", "", "valid, and equal to none before it, as generated and relaxed"
)
NOVEL = Column(
    "novel", "", "valid, and equal to no known crystal, as generated and relaxed"
)
METHOD = Column("relaxation_method", "", "ase or batched; empty if not relaxed")
CONVERGED = Column(
    "relaxation_converged", "", "whether the relaxation reached its force threshold"
)
STEPS = Column("relaxation_steps", "", "steps of the optimizer")
MAX_FORCE = Column(
    "relaxed_max_force", "eV/Å", "largest force after the relaxation", "max_force"
)
SECONDS = Column("relaxation_seconds", "s", "that the relaxation took")
RELAXED_ENERGY = Column(
    "relaxed_formation_energy",
    "eV/atom",
    "of the relaxed crystal, by the calculator",
    "formation_energy_relaxed",
)
ENERGY_MODEL = Column(
    "relaxed_energy_model",
    "",
    "of the relaxed crystal's energy: comparable with others of the same name only",
    "energy_model_relaxed",
)
ABOVE_HULL = Column(
    "relaxed_energy_above_hull",
    "eV/atom",
    "of the relaxed crystal, above the known compounds; negative below them",
    "energy_above_hull",
)
RELAXED_SPACE_GROUPS = tuple(
    Column(
        f"relaxed_space_group_{symprec:g}",
        "",
        f"found within {symprec:g} Å in the relaxed crystal; 0 for none",
        f"space_group_relaxed_{symprec:g}",
    )
    for symprec in RELAXED_SYMPRECS
)
IS_SADDLE = Column(
    "released_is_saddle",
    "",
    "whether the crystal, relaxed within its space group, loses over 2 meV/atom and "
    "the group once disturbed and relaxed without it; empty if not asked or unknown",
)
RELEASED_ENERGY_CHANGE = Column(
    "released_energy_change",
    "eV/atom",
    "of the crystal that is relaxed without its symmetry, less the one within it",
)
RELEASED_SPACE_GROUP = Column(
    "released_space_group_0.1",
    "",
    "found within 0.1 Å in the crystal that is relaxed without its symmetry",
)
REJECTED_STAGE = Column(
    "rejected_stage",
    "",
    "validity, duplicates, relaxation or energy; empty if ranked",
    "fell_out_at",
)
REJECTED_REASON = Column(
    "rejected_reason", "", "why, in words; empty if ranked", "fell_out"
)

# By the names of this module, which the page's scripts know them by.
BY_IDENTIFIER: Mapping[str, Column | tuple[Column, ...]] = {
    identifier: value
    for identifier, value in list(globals().items())
    if isinstance(value, Column)
    or identifier in ("GENERATED_SPACE_GROUPS", "RELAXED_SPACE_GROUPS")
}
ALL: tuple[Column, ...] = tuple(
    column
    for value in BY_IDENTIFIER.values()
    for column in ((value,) if isinstance(value, Column) else value)
)
# Tables written before, and candidates.extxyz, whose keys have no dots.
_FORMER = {column.former: column for column in ALL if column.former} | {
    re.sub(r"\W", "_", name): column
    for column in ALL
    for name in (column.former, column)
    if "." in name
}


def rename_former(table: Mapping[str, T]) -> dict[str, T]:
    """A table, or one of its rows, with the columns of this module.

    Samples, and screenings of earlier releases, have other names for the same. A
    column that is there under its name too stays as it is.
    """
    renamed = {_FORMER.get(name, name): value for name, value in table.items()}
    return {str(name): table.get(name, value) for name, value in renamed.items()}


def format_table() -> str:
    """All columns as a table in Markdown."""
    lines = ["| column | unit | meaning |", "|---|---|---|"]
    lines += [f"| `{each}` | {each.unit} | {each.meaning} |" for each in ALL]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(format_table(), end="")
