"""Makes crystaljax/crystals/tables/element_properties_*.csv from mendeleev.

    pip install mendeleev==0.18.1
    python experiments/tables/make_element_properties.py

takes a minute. mendeleev up to 0.18.1 gives the numbers of the paper's code exactly;
later releases changed the oxidation states and atomic volumes (nitrogen: 12,233 cm³/mol
instead of 17.3), so any other version is refused unless --allow_version names it.
"""

import argparse
import importlib.metadata
import pathlib

import mendeleev
import numpy as np

NUM_ELEMENTS = 103
EXPECTED_VERSION = "0.18.1"
TABLES = pathlib.Path(__file__).parents[2] / "crystaljax" / "crystals" / "tables"

# Order as in the paper's code. Radii are in pm, atomic_volume in cm³/mol.
NAMES = (
    "atomic_number",
    "mean_ionic_radius",
    "is_noble_gas",
    "en_pauling",
    "mean_cationic_radius",
    "is_transition_metal",
    "period",
    "mean_anionic_radius",
    "is_post_transition_metal",
    "group_id",
    "sum_ionic_radii",
    "is_metalloid",
    "atomic_weight",
    "max_oxistate",
    "is_alkali",
    "atomic_radius",
    "min_oxistate",
    "is_alkaline_earth",
    "mendeleev_number",
    "mean_oxistate",
    "is_halogen",
    "atomic_volume",
)
# Skewed columns. The proton's ionic radii are negative, so that their sum cannot take a
# log; arcsinh is one for large values.
TRANSFORMS = {
    "atomic_volume": np.log,
    "sum_ionic_radii": lambda value: np.arcsinh(value / 100),
}


def load_elements():
    """The elements H…Lr of mendeleev."""
    return [mendeleev.element(number) for number in range(1, NUM_ELEMENTS + 1)]


def known_properties(element) -> dict[str, float | None]:
    """The properties that are not flags; None where mendeleev has no value."""
    radii = list(element.ionic_radii)
    ionic = [radius.ionic_radius for radius in radii]
    cationic = [radius.ionic_radius for radius in radii if radius.charge > 0]
    anionic = [radius.ionic_radius for radius in radii if radius.charge < 0]
    oxistates = list(element.oxistates)
    return {
        "atomic_number": element.atomic_number,
        "mean_ionic_radius": np.mean(ionic) if ionic else None,
        "en_pauling": element.en_pauling,
        "mean_cationic_radius": np.mean(cationic) if cationic else None,
        "period": element.period,
        "mean_anionic_radius": np.mean(anionic) if anionic else None,
        "group_id": element.group_id,
        "sum_ionic_radii": np.sum(ionic) if ionic else None,
        "atomic_weight": element.atomic_weight,
        "max_oxistate": max(oxistates) if oxistates else None,
        "atomic_radius": element.atomic_radius,
        "min_oxistate": min(oxistates) if oxistates else None,
        "mendeleev_number": element.mendeleev_number,
        "mean_oxistate": np.mean(oxistates) if oxistates else None,
        "atomic_volume": element.atomic_volume,
    }


def reference_flags(element) -> dict[str, bool]:
    """Flags as the paper's code has them: three never set, two with other meanings."""
    return {
        "is_noble_gas": False,
        "is_transition_metal": False,
        "is_post_transition_metal": False,
        "is_metalloid": element.metallic_radius is not None,
        "is_alkali": element.group_id == 1,
        "is_alkaline_earth": element.group_id == 2,
        "is_halogen": element.group_id == 17,
    }


def right_flags(element) -> dict[str, bool]:
    """Flags that mean what they say.

    Group 3 is Sc, Y, La, Ac here, as in the column group_id and in pymatgen.
    """
    group = element.group_id or 0
    return {
        "is_noble_gas": group == 18,
        "is_transition_metal": 3 <= group <= 12,
        "is_post_transition_metal": element.series == "Poor metals",
        "is_metalloid": element.series == "Metalloids",
        "is_alkali": group == 1 and element.symbol != "H",
        "is_alkaline_earth": group == 2,
        "is_halogen": group == 17,
    }


def reference_table(elements) -> np.ndarray:
    """The table of the paper's code, (103, 22): missing values are 0."""
    rows = []
    for element in elements:
        values = known_properties(element) | reference_flags(element)
        rows.append([float(values[name] or 0) for name in NAMES])
    return np.array(rows)


def scaled_table(elements) -> tuple[list[str], np.ndarray]:
    """Column names and the standardised table with columns that mark missing values."""
    known = [known_properties(element) for element in elements]
    flags = [right_flags(element) for element in elements]
    columns = {}
    indicators = {}
    for name in NAMES:
        if name in flags[0]:
            columns[name] = np.array([float(row[name]) for row in flags])
            continue
        values = np.array(
            [np.nan if row[name] is None else row[name] for row in known], dtype=float
        )
        if name in TRANSFORMS:
            values = TRANSFORMS[name](values)
        standardised = (values - np.nanmean(values)) / np.nanstd(values)
        columns[name] = np.nan_to_num(standardised, nan=0.0)
        missing = np.isnan(values).astype(float)
        # Columns of one origin are missing together: one mark is enough.
        seen = any(np.array_equal(missing, other) for other in indicators.values())
        if missing.any() and not seen:
            indicators[f"{name}_missing"] = missing
    columns |= indicators
    return list(columns), np.stack(list(columns.values()), axis=1)


def save_table(form: str, names, values: np.ndarray, version: str) -> None:
    """Writes one table as text, so that a change shows up line by line in a diff."""
    path = TABLES / f"element_properties_{form}.csv"
    header = (
        f"# {form} element properties, rows H…Lr\n"
        f"# mendeleev {version}, experiments/tables/make_element_properties.py\n"
        f"{','.join(names)}\n"
    )
    rows = "".join(",".join(f"{value:.10g}" for value in row) + "\n" for row in values)
    path.write_text(header + rows, encoding="utf-8")
    print(f"{path}: {values.shape[0]} x {values.shape[1]}")


def main() -> None:
    """Makes both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--allow_version", help="another mendeleev version to make the tables with"
    )
    version = importlib.metadata.version("mendeleev")
    allowed = parser.parse_args().allow_version or EXPECTED_VERSION
    if version != allowed:
        raise ValueError(
            f"mendeleev {version} is installed; expected {allowed}, since others hold "
            f"other numbers: pip install mendeleev=={allowed}, or pass "
            f"--allow_version={version} and compare"
        )
    elements = load_elements()
    save_table("reference", NAMES, reference_table(elements), version)
    save_table("scaled", *scaled_table(elements), version)


if __name__ == "__main__":
    main()
