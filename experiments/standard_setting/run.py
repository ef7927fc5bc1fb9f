"""Do crystals survive the way into the standard setting of their group and back?

    python experiments/standard_setting/run.py --csv val.csv.gz --name mp_20_biternary \
        --space_group_column spacegroup.number --output result.json

standardises every crystal of a CSV with a column of CIFs on one core, takes the chosen
description, builds all sites and compares with the crystal that was read. It counts
crystals whose group is not the labelled one, supercells, P1, what comes back changed
and what fails, with ids, and times each part. Results of several files are kept in one
JSON by name.
"""

import argparse
import collections
import json
import pathlib
import time
from typing import Any

import numpy as np
import spglib
import tqdm

from crystaljax.crystals import orbits, standard_choice, standard_setting, structure
from crystaljax.data.sources import cif_csv, record
from crystaljax.matching import matcher
from crystaljax.system import environment

TOLERANCE = matcher.TOLERANCES["paper"]
# Of the test whether a rebuilt crystal has its group, Å.
SYMPREC = 0.001
NAMED = 20  # ids listed of each kind


def main() -> None:
    """Measures one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--space_group_column")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    records = read(args.csv, args.space_group_column, args.limit)
    result = measure(records)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    results[args.name] = result | {"environment": environment.describe_environment()}
    args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def read(path: str, column: str | None, limit: int | None) -> list[record.Record]:
    """Crystals that can be read."""
    source = cif_csv.CifCsv(path, space_group_column=column)
    records = []
    for row in source.read_rows():
        parsed = source.parse_row(row)
        if isinstance(parsed, record.Record):
            records.append(parsed)
        if len(records) == limit:
            break
    return records


def measure(records: list[record.Record]) -> dict[str, Any]:
    """Standardises, chooses, rebuilds and compares."""
    ids = collections.defaultdict(list)
    symprecs: collections.Counter[float] = collections.Counter()
    cells: collections.Counter[int] = collections.Counter()
    seconds = dict.fromkeys(("standardise", "choose", "expand"), 0.0)
    kept: list[record.Record] = []
    rebuilt, free, plain, num_orbits, num_sites = [], [], [], [], []
    random = np.random.default_rng(0)
    for one in tqdm.tqdm(records, mininterval=10):
        start = time.process_time()
        try:
            found = standard_setting.standardise(one.crystal, one.space_group or None)
        except ValueError as problem:
            ids["failed"].append(f"{one.id}: {problem}")
            continue
        finally:
            seconds["standardise"] += time.process_time() - start
        start = time.process_time()
        chosen = standard_choice.choose(found.crystal)
        seconds["choose"] += time.process_time() - start
        start = time.process_time()
        crystal = orbits.expand(chosen)
        seconds["expand"] += time.process_time() - start
        symprecs[found.symprec] += 1
        cells[found.num_cells] += 1
        if not found.agrees:
            ids["other_group"].append(
                f"{one.id}: {one.space_group} labelled, {chosen.space_group} found"
            )
        if found.num_cells > 1:
            ids["supercells"].append(f"{one.id}: {found.num_cells} cells")
        if chosen.space_group == 1:
            ids["P1"].append(one.id)
        group_found = space_group(crystal)
        if group_found != chosen.space_group:
            ids["group_lost"].append(
                f"{one.id}: {chosen.space_group} built, {group_found} found"
            )
        if not same_choice(crystal, chosen, random):
            ids["chosen_differently"].append(one.id)
        kept.append(one)
        rebuilt.append(crystal)
        free.append(int(standard_choice.free_parameters(chosen).sum()))
        plain.append(int(np.count_nonzero(chosen.strain)))
        num_orbits.append(chosen.num_orbits)
        num_sites.append(chosen.num_sites)
    rms = []
    for one, crystal in zip(kept, rebuilt, strict=True):
        found_rms = matcher.match(crystal, one.crystal, [TOLERANCE]).rms[0]
        if found_rms is None:
            ids["changed"].append(one.id)
        else:
            rms.append(found_rms)
    total = len(records)
    return {
        "crystals": total,
        "standardised": len(kept),
        "there_and_back": len(rms),
        "there_and_back_percent": round(100 * len(rms) / total, 3),
        "tolerance": str(TOLERANCE),
        "rms": {
            f"{q} %": float(np.round(np.percentile(rms, q), 5)) for q in (50, 99, 100)
        },
        "milliseconds": {
            part: round(1000 * value / total, 3) for part, value in seconds.items()
        },
        "symprecs": {str(key): symprecs[key] for key in sorted(symprecs)},
        "primitive_cells": {str(key): cells[key] for key in sorted(cells)},
        "mean": {
            "sites": round(float(np.mean(num_sites)), 2),
            "orbits": round(float(np.mean(num_orbits)), 2),
            "free parameters": round(float(np.mean(free)), 2),
            "free strains": round(float(np.mean(plain)), 2),
            "3 sites + 6": round(float(3 * np.mean(num_sites) + 6), 2),
        },
        "counts": {kind: len(members) for kind, members in ids.items()},
        "named": {kind: members[:NAMED] for kind, members in ids.items()},
    }


def space_group(crystal: structure.Crystal) -> int:
    """What spglib finds; 0 for nothing."""
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        found = spglib.get_symmetry_dataset(cell, SYMPREC)
    except Exception:
        return 0
    return 0 if found is None else found.number


def same_choice(
    crystal: structure.Crystal,
    chosen: orbits.OrbitCrystal,
    random: np.random.Generator,
) -> bool:
    """Whether the crystal in another basis, origin and site order is chosen alike."""
    basis = np.eye(3, dtype=int)
    basis[0, 1], basis[2, 0] = random.integers(-1, 2, 2)
    order = random.permutation(crystal.num_sites)
    coords = crystal.frac_coords @ np.linalg.inv(basis) + random.random(3)
    disguised = structure.Crystal(
        crystal.atomic_numbers[order], coords[order] % 1, basis @ crystal.lattice
    )
    try:
        found = standard_setting.standardise(
            disguised, chosen.space_group, (SYMPREC, 0.01)
        )
    except ValueError:
        return False
    again = standard_choice.choose(found.crystal)
    if again.positions.tolist() != chosen.positions.tolist():
        return False
    apart = again.parameters - chosen.parameters
    return bool(
        np.abs(apart - np.round(apart)).max() < 0.01
        and np.abs(again.strain - chosen.strain).max() < 0.01
    )


if __name__ == "__main__":
    main()
