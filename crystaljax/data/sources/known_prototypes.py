"""Arrangements of sites that real crystals have, for new elements to be put on.

The packaged ones are those that the model `mp` knows, each the mean of the training
structures that share it (``experiments/modification/make_prototypes.py``), of up to 20
sites and four species. To them come the packings of `prototypes`.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from crystaljax.crystals import elements, structure
from crystaljax.data.sources import prototypes

PATH = pathlib.Path(__file__).parents[1] / "builtin" / "known_prototypes.arrow"

# Packings have no elements of their own; with these they are as large as metals are.
_METALS = ("Cu", "Pd", "Au")


@dataclasses.dataclass(frozen=True, eq=False)
class KnownPrototype:
    """One arrangement of sites, with elements that it is known of.

    Attributes:
        name: unique.
        space_group: 1-230.
        num_crystals: known with it; 0 for a packing, which has no elements of its own.
        crystal: primitive cell, as large as these elements make it.
    """

    name: str
    space_group: int
    num_crystals: int
    crystal: structure.Crystal

    @functools.cached_property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers: rare ones first, equally rare ones by Mendeleev number."""
        ranks = elements.mendeleev_number()
        counts = collections.Counter(self.crystal.atomic_numbers.tolist())
        return tuple(sorted(counts, key=lambda n: (counts[n], ranks[n], n)))

    @functools.cached_property
    def kind(self) -> tuple[int, ...]:
        """Sites of each of the species, ascending."""
        counts = collections.Counter(self.crystal.atomic_numbers.tolist())
        return tuple(counts[number] for number in self.species)


@functools.cache
def load() -> Mapping[tuple[int, ...], Sequence[KnownPrototype]]:
    """All prototypes by kind: packaged ones and packings."""
    kinds: dict[tuple[int, ...], list[KnownPrototype]] = collections.defaultdict(list)
    for each in [*read(PATH), *map(_of_packing, prototypes.PROTOTYPES)]:
        kinds[each.kind].append(each)
    return dict(sorted(kinds.items()))


def read(path: pathlib.Path) -> list[KnownPrototype]:
    """Reads prototypes that `save` wrote."""
    with pa.ipc.open_file(str(path)) as reader:
        columns = reader.read_all().to_pydict()
    return [
        KnownPrototype(
            columns["name"][i],
            columns["space_group"][i],
            columns["num_crystals"][i],
            structure.Crystal(
                np.array(numbers, int),
                np.reshape(np.array(columns["frac_coords"][i], float), (-1, 3)),
                np.reshape(np.array(columns["lattice"][i], float), (3, 3)),
            ),
        )
        for i, numbers in enumerate(columns["atomic_numbers"])
    ]


def save(rows: Sequence[KnownPrototype], path: pathlib.Path) -> None:
    """Writes prototypes as an Arrow IPC file (zstd)."""
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("space_group", pa.uint8()),
            ("num_crystals", pa.int32()),
            ("atomic_numbers", pa.list_(pa.uint8())),
            ("frac_coords", pa.list_(pa.float32())),
            ("lattice", pa.list_(pa.float32(), 9)),
        ]
    )
    table = pa.table(
        {
            "name": [each.name for each in rows],
            "space_group": [each.space_group for each in rows],
            "num_crystals": [each.num_crystals for each in rows],
            "atomic_numbers": [each.crystal.atomic_numbers for each in rows],
            "frac_coords": [each.crystal.frac_coords.ravel() for each in rows],
            "lattice": [each.crystal.lattice.ravel() for each in rows],
        },
        schema=schema,
    )
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        writer.write_table(table)


def _of_packing(packing: prototypes.Prototype) -> KnownPrototype:
    element = dict(zip("ABC", _METALS, strict=True))
    numbers = [elements.atomic_number(element[letter]) for letter in packing.letters]
    radii = elements.load_covalent_radii()[np.array(numbers) - 1]
    # Of close-packed spheres.
    volume = np.sum((2 * radii) ** 3) / np.sqrt(2)
    scale = np.cbrt(volume / abs(np.linalg.det(packing.lattice)))
    return KnownPrototype(
        packing.name,
        packing.space_group,
        0,
        structure.Crystal(
            np.array(numbers), packing.frac_coords, packing.lattice * scale
        ),
    )
