"""Does it help to train on other descriptions of the same crystals?

    python experiments/orbits/other_descriptions.py --dataset=data/mp_20 \
        --workdir=runs/other_descriptions --num_steps=2000

As `crystaljax train --config=symmetric:smoke`, but each training structure is shown in
one of ``--num`` descriptions that the normaliser of its group relates, by chance, and
not always in the one that `standard_choice.choose` takes. `measure.py
--network_alone --questions=true` says what the flow learned.
"""

import argparse
import dataclasses
import pathlib

import jax
import numpy as np
import tqdm

from crystaljax import train
from crystaljax.crystals import orbits, standard_choice, standard_groups
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.system import config_files
from crystaljax.training import orbit_batches

ROOT = pathlib.Path(__file__).parents[2]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--num_steps", type=int, default=2000)
    parser.add_argument("--num", type=int, default=4)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    table = orbit_table.open_table(dataset)
    rng = np.random.default_rng(0)
    tables = [table]
    for _ in range(args.num - 1):
        tables.append(describe(table, dataset.indices("train"), rng))

    def gather(dataset, _, indices, num_orbits, num_sites):
        each = [plain(dataset, one, indices, num_orbits, num_sites) for one in tables]
        chosen = rng.integers(len(tables), size=indices.shape)

        def pick(*arrays):
            stacked = np.stack(arrays)
            added = tuple(range(1 + chosen.ndim, stacked.ndim))
            return np.take_along_axis(stacked, np.expand_dims(chosen, (0, *added)), 0)[
                0
            ]

        return jax.tree.map(pick, *each)

    plain, orbit_batches.gather = orbit_batches.gather, gather
    config = config_files.load_file(ROOT / "configs" / "symmetric.py", "smoke")
    config.data.path = args.dataset
    config.model.estimator_depth = 0
    config.model.position_epochs = 1
    config.train.num_steps = args.num_steps
    config.train.validate_every = args.num_steps
    train.train(config, args.workdir)


def describe(
    table: orbit_table.OrbitTable, indices: np.ndarray, rng: np.random.Generator
) -> orbit_table.OrbitTable:
    """The table with other descriptions of some structures, by chance."""
    positions, parameters = table.positions.copy(), table.parameters.copy()
    strain, anchor = table.strain.copy(), table.anchor.copy()
    for index in tqdm.tqdm(indices.tolist(), desc="descriptions", mininterval=10):
        if not table.space_group[index]:
            continue
        crystal, fixed = another(table.crystal(index), rng)
        part = slice(table.offsets[index], table.offsets[index + 1])
        positions[part], parameters[part] = crystal.positions, crystal.parameters
        strain[index], anchor[index] = crystal.strain, fixed
    return dataclasses.replace(
        table, positions=positions, parameters=parameters, strain=strain, anchor=anchor
    )


def another(
    crystal: orbits.OrbitCrystal, rng: np.random.Generator
) -> tuple[orbits.OrbitCrystal, int]:
    """A description of a crystal by chance, and the orbit that fixes the origin."""
    group = standard_groups.load_group(crystal.space_group)
    ways = standard_choice.list_short(crystal)
    made = standard_choice.transform(crystal, *ways[rng.integers(len(ways))])
    _, roles = np.unique(
        [
            standard_choice.species_order(orbits.expand(crystal).atomic_numbers).index(
                n
            )
            for n in crystal.atomic_numbers.tolist()
        ],
        return_inverse=True,
    )
    order = np.lexsort((made.positions, roles))
    positions, parameters = made.positions[order], made.parameters[order]
    fixed = standard_choice.find_anchor(group, roles[order], positions)
    parameters[:, : group.num_polar] -= parameters[fixed, : group.num_polar]
    parameters = standard_choice.plainest(
        group, positions, parameters, fixed if group.num_polar else None
    )
    numbers = made.atomic_numbers[order]
    return (
        dataclasses.replace(
            made,
            atomic_numbers=numbers,
            positions=positions,
            parameters=parameters % 1,
        ),
        fixed,
    )


if __name__ == "__main__":
    main()
