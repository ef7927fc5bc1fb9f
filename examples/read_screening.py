"""Reads a screening with pandas: what was lost where, and what is worth a look.

    python examples/read_screening.py screening

``screening`` is the folder that `crystaljax screen` wrote. What the columns mean:
docs/screening_columns.md. Prints, and writes ``best.csv`` beside the table: the best
crystal of each composition, with how far it came from what had been requested.
"""

import pathlib
import sys

import pandas as pd

SHOWN = [
    "name",
    "reduced_formula",
    "relaxed_formation_energy",
    "relaxed_energy_above_hull",
    "requested_space_group",
    "relaxed_space_group_0.1",
    "known_as",
]


def reduced(formula: str) -> str:
    """Cu2Au2 and Cu4Au4 → CuAu."""
    # Takes a second to import.
    from pymatgen.core import Composition

    return Composition(formula).reduced_formula


def read(folder: str | pathlib.Path) -> pd.DataFrame:
    """One row per input; empty text is missing."""
    table = pd.read_parquet(pathlib.Path(folder) / "screening.parquet")
    return table.assign(
        reduced_formula=table["formula"].map(reduced),
        stage=table["rejected_stage"].replace("", "ranked"),
    )


def lost(table: pd.DataFrame) -> pd.Series:
    """How many crystals ended at which stage, and why."""
    reasons = table["rejected_reason"].where(table["rank"] == 0, "")
    return table.groupby(["stage", reasons]).size().sort_values(ascending=False)


def best(table: pd.DataFrame) -> pd.DataFrame:
    """The best of each composition: lowest above the hull, or lowest in energy."""
    ranked = table[table["rank"] > 0].sort_values("rank")
    found = ranked.drop_duplicates("reduced_formula")
    if "requested_formation_energy" in found:
        found = found.assign(
            energy_off=found["relaxed_formation_energy"]
            - found["requested_formation_energy"]
        )
    columns = [name for name in [*SHOWN, "energy_off"] if name in found]
    return found[columns].reset_index(drop=True)


def kept_space_group(table: pd.DataFrame) -> float:
    """Share of the relaxed crystals that have the space group that was requested."""
    relaxed = table[table["relaxation_method"] != ""]
    same = relaxed["relaxed_space_group_0.1"] == relaxed["requested_space_group"]
    return float(same.mean())


def main(folder: str) -> None:
    """Prints, and writes best.csv."""
    table = read(folder)
    print(lost(table).to_string(), end="\n\n")
    found = best(table)
    print(found.to_string(index=False, float_format="%.3f"), end="\n\n")
    has_relaxed = bool((table["relaxation_method"] != "").any())
    if has_relaxed and "requested_space_group" in table:
        print(f"space group kept by {kept_space_group(table):.0%} of the relaxed ones")
    found.to_csv(pathlib.Path(folder) / "best.csv", index=False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
