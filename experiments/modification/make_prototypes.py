"""Makes the prototypes that `prepare --source=prototypes` decorates with elements.

    python experiments/modification/make_prototypes.py

writes crystaljax/data/builtin/known_prototypes.arrow from what the model `mp` knows:
one row for each arrangement of sites (means over training structures that share it),
in the primitive cell, as large as its elements' atoms were. Kinds (sites of each
species) with fewer than seven arrangements are left out: they make no polymorph groups.
"""

import argparse
import collections
import pathlib
from typing import Any

import numpy as np

from crystaljax.crystals import elements, orbits, standard_groups, structure
from crystaljax.data.sources import known_prototypes
from crystaljax.models import prototype_structures, scaling, wyckoff_files
from crystaljax.training import model_files, runs

MAX_SITES = 20
MAX_SPECIES = 4
FEWEST_OF_A_KIND = 7
MOST_OF_A_KIND = 40


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mp")
    parser.add_argument("--output", type=pathlib.Path, default=known_prototypes.PATH)
    args = parser.parse_args()
    folder = model_files.resolve(None, args.model)
    model = wyckoff_files.load(folder / runs.POSITIONS, runs.REMEDY)
    volumes = np.asarray(scaling.load_scaling(folder / "scaling.json").atomic_volumes)
    kinds = collections.defaultdict(list)
    for index in range(len(model.structures)):
        counts = model.library.counts[int(model.structures.entries[index])]
        if sum(counts) <= MAX_SITES and 2 <= len(counts) <= MAX_SPECIES:
            kinds[tuple(sorted(counts))].append(index)
    rows = []
    for _, indices in sorted(kinds.items()):
        if len(indices) < FEWEST_OF_A_KIND:
            continue
        # Those that most crystals have.
        ranked = sorted(indices, key=lambda index: -int(model.structures.sizes[index]))
        made = [build(model, index, volumes) for index in ranked[:MOST_OF_A_KIND]]
        rows += [each for each in made if each is not None]
    known_prototypes.save(rows, args.output)
    print(f"{len(rows)} prototypes, {args.output.stat().st_size:,} bytes")


def build(
    model: Any, index: int, volumes: np.ndarray
) -> known_prototypes.KnownPrototype | None:
    """One arrangement; None if two of its species are nearest to one element."""
    library, known = model.library, model.structures
    entry = int(known.entries[index])
    group = int(library.space_groups[entry])
    species = nearest_elements(library.numbers[entry])
    if len(set(species)) < len(species):
        return None
    assignment = library.assignments[entry]
    numbers = np.repeat(species, [len(filled) for filled in assignment])
    positions = np.array([place for filled in assignment for place in filled])
    own = standard_groups.load_group(group)
    strain = known.strains[index].copy()
    strain[0] += prototype_structures.size_strain(
        volumes, own, numbers, positions.tolist()
    )
    crystal = orbits.expand(
        orbits.OrbitCrystal(group, numbers, positions, known.parameters[index], strain)
    )
    return known_prototypes.KnownPrototype(
        name=f"{elements.anonymous_formula(crystal.atomic_numbers)}-{group}-{index}",
        space_group=group,
        num_crystals=int(known.sizes[index]),
        crystal=structure.Crystal(
            crystal.atomic_numbers, crystal.frac_coords, crystal.lattice
        ),
    )


def nearest_elements(mean_numbers: np.ndarray) -> list[int]:
    """The elements with Mendeleev numbers next to these."""
    known = elements.mendeleev_number().astype(float)[1:]
    return [int(np.argmin(np.abs(known - number))) + 1 for number in mean_numbers]


if __name__ == "__main__":
    main()
