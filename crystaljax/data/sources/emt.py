"""The built-in data set: prototypes decorated with fcc metals, relaxed with EMT.

AFLOW in miniature. Every prototype is decorated with every ordered choice of metals,
scaled to the atoms' volume, relaxed with ASE's effective medium theory, and labelled
with its formation energy against the fcc elements and its space group. The energies are
EMT's: real forces and hulls for trying the whole loop, not chemistry to publish.
(Aluminium is left out: EMT has the sign of its alloys with transition metals wrong.)

What ships with the package is what ``generate`` gives; the maker script is
``experiments/builtin_alloys/make_builtin_alloys.py``.
"""

import collections
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Sequence

import ase.data
import numpy as np
import pyarrow as pa

from crystaljax.crystals import bridge, structure
from crystaljax.data.sources import prototypes, record, relaxed
from crystaljax.relaxation import ase_relaxation, calculators, references
from crystaljax.system import errors, workers

CALCULATOR = "emt"
METALS = ("Ni", "Cu", "Pd", "Ag", "Pt", "Au")
# Raise it whenever generate gives other structures than before.
GENERATOR_VERSION = 1
BUILTIN_PATH = pathlib.Path(__file__).parents[1] / "builtin" / "emt_alloys.arrow"

SETTINGS = ase_relaxation.RelaxationSettings(fmax=0.05, max_steps=100)
# Bonds shorter than this share of the sum of the radii are stretched by scaling the
# cell up; a prototype that must swell by more than MAX_SWELLING for it is too open: EMT
# lets such structures swell without bound.
MIN_BOND = 0.85
MAX_SWELLING = 1.5
# Dropped after relaxation; close packings have 0.95 to 1.02 of the elements' volume.
MAX_RELAXED_SWELLING = 1.2


@dataclasses.dataclass(frozen=True)
class Decoration:
    """A prototype with a metal for each of its letters: the work order of a worker."""

    prototype: prototypes.Prototype
    metals: tuple[str, ...]

    @property
    def id(self) -> str:
        """Unique name, such as ``L1_2:Au-Cu``."""
        return f"{self.prototype.name}:{'-'.join(self.metals)}"

    @property
    def atomic_numbers(self) -> np.ndarray:
        """Shape (sites,)."""
        element = dict(zip("ABC", self.metals, strict=False))
        return np.array(
            [ase.data.atomic_numbers[element[s]] for s in self.prototype.letters]
        )


@dataclasses.dataclass(frozen=True)
class Generated:
    """What ``generate`` gives.

    Attributes:
        records: the structures, in the order of prototypes and metals.
        num_dropped: reason → number of decorations that gave no structure.
    """

    records: list[record.Record]
    num_dropped: dict[str, int]


def generate(
    num_structures: int | None = None,
    *,
    seed: int = 0,
    metals: Sequence[str] = METALS,
    prototype_names: Sequence[str] | None = None,
    num_workers: int | None = None,
    description: str | None = None,
) -> Generated:
    """Builds the data set; the same arguments give the same structures again.

    Args:
        num_structures: about how many; all there are if None. A smaller number takes
            chemical systems at random (all prototypes of a formula stay together),
            cutting the last one short to give the number exactly.
        seed: which chemical systems a smaller number takes.
        metals: element symbols, of those EMT has; each must be fcc.
        prototype_names: restrict to these of ``prototypes.PROTOTYPES``.
        num_workers: processes; all CPUs if None.
        description: label of a progress bar; none if None.

    Raises:
        ValueError: an unknown prototype or metal, or more structures requested than
            these prototypes and metals give.
    """
    unknown = sorted(set(metals) - set(METALS))
    if unknown:
        raise errors.UserError(
            f"no built-in alloys of {', '.join(unknown)}; the metals are "
            f"{', '.join(METALS)}"
        )
    work = decorations(metals, prototype_names)
    if num_structures is not None and num_structures > len(work):
        raise errors.UserError(
            f"{num_structures} structures requested, but these prototypes give at most "
            f"{len(work)} with {len(metals)} metals; use fewer, or None for all"
        )
    # Results of one chemical system never depend on another, so a small number relaxes
    # a few systems only.
    systems: dict[tuple[str, ...], list[Decoration]] = collections.defaultdict(list)
    for decoration in work:
        systems[tuple(sorted(decoration.metals))].append(decoration)
    todo = list(systems.values())
    if num_structures is not None:
        todo = [todo[i] for i in np.random.default_rng(seed).permutation(len(todo))]
    wanted = len(work) if num_structures is None else num_structures
    records: list[record.Record] = []
    dropped: collections.Counter[str] = collections.Counter()
    while todo and len(records) < wanted:
        batch: list[Decoration] = []
        while todo and len(records) + len(batch) < wanted:
            batch += todo.pop(0)
        found = []
        for result in workers.map_in_workers(
            make_record, batch, num_workers=num_workers, description=description
        ):
            if isinstance(result, record.Failure):
                dropped[result.reason] += 1
            else:
                found.append(result)
        kept = relaxed.drop_duplicates(found, num_workers=num_workers)
        dropped["duplicate"] += len(found) - len(kept)
        records += kept
    if num_structures is not None and len(records) < num_structures:
        raise errors.UserError(
            f"{num_structures} structures requested, but these prototypes give "
            f"{len(records)} with {len(metals)} metals; ask for fewer, or None for all"
        )
    position = {decoration.id: i for i, decoration in enumerate(work)}
    records = sorted(records[:wanted], key=lambda item: position[item.id])
    return Generated(records, dict(dropped))


def decorations(
    metals: Sequence[str] = METALS, prototype_names: Sequence[str] | None = None
) -> list[Decoration]:
    """All prototypes with all ordered choices of metals, each crystal once.

    Where exchanging letters gives the same crystal (A and B of CsCl), only one of the
    orders is in the list.

    Raises:
        ValueError: a name is not in ``prototypes.PROTOTYPES``.
    """
    known = [prototype.name for prototype in prototypes.PROTOTYPES]
    unknown = sorted(set(prototype_names or ()) - set(known))
    if unknown:
        raise errors.UserError(
            f"unknown prototypes {unknown}; expected some of {known}"
        )
    rank = {metal: i for i, metal in enumerate(metals)}
    found = []
    for prototype in prototypes.PROTOTYPES:
        if prototype_names is not None and prototype.name not in prototype_names:
            continue
        swaps = prototypes.equivalent_letter_orders(prototype)
        for chosen in itertools.permutations(metals, prototype.num_letters):
            ranks = [rank[metal] for metal in chosen]
            if all(ranks <= [ranks[i] for i in swap] for swap in swaps):
                found.append(Decoration(prototype, chosen))
    return found


def make_record(decoration: Decoration) -> record.Record | record.Failure:
    """Scales, relaxes and labels one decorated prototype."""
    numbers = decoration.atomic_numbers
    element_volume = sum(_atomic_volume(int(n)) for n in numbers)
    start = _scale(decoration, element_volume)
    if start is None:
        return record.Failure(decoration.id, "too open a packing")
    result = ase_relaxation.relax(start, CALCULATOR, SETTINGS)
    energies = {
        int(n): references.elemental_energy(CALCULATOR, int(n)) for n in numbers
    }
    largest = MAX_RELAXED_SWELLING * element_volume
    return relaxed.label(decoration.id, result, energies, largest)


def load_builtin() -> list[record.Record]:
    """The data set that ships with the package."""
    return load(BUILTIN_PATH)


def load(path: str | pathlib.Path) -> list[record.Record]:
    """Reads records that ``save`` wrote."""
    columns = _read_table(path).to_pydict()
    return [
        record.Record(
            id=columns["id"][i],
            crystal=structure.Crystal(
                atomic_numbers=np.array(numbers),
                frac_coords=np.reshape(columns["frac_coords"][i], (-1, 3)),
                lattice=np.reshape(columns["lattice"][i], (3, 3)),
            ),
            space_group=columns["space_group"][i],
            formation_energy=columns["formation_energy"][i],
        )
        for i, numbers in enumerate(columns["atomic_numbers"])
    ]


def load_metadata(path: str | pathlib.Path = BUILTIN_PATH) -> dict:
    """Provenance of a file that ``save`` wrote.

    Keys: energy_model, reference_energies (symbol → eV/atom), generator_version,
    parameters, num_dropped (reason → number).
    """
    schema = _read_table(path).schema
    return json.loads((schema.metadata or {})[b"crystaljax"])


def save(generated: Generated, path: str | pathlib.Path) -> None:
    """Writes records as an Arrow IPC file (zstd), provenance in its schema."""
    records = generated.records
    numbers = {int(n) for item in records for n in item.crystal.atomic_numbers}
    metadata = {
        "energy_model": calculators.energy_model(CALCULATOR),
        "reference_energies": {
            ase.data.chemical_symbols[n]: references.elemental_energy(CALCULATOR, n)
            for n in sorted(numbers)
        },
        "generator_version": GENERATOR_VERSION,
        "parameters": {
            "fmax": SETTINGS.fmax,
            "max_steps": SETTINGS.max_steps,
            "symprec": relaxed.SYMPREC,
            "min_bond": MIN_BOND,
            "max_swelling": MAX_SWELLING,
            "max_relaxed_swelling": MAX_RELAXED_SWELLING,
        },
        "num_dropped": generated.num_dropped,
    }
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("prototype", pa.dictionary(pa.int16(), pa.string())),
            ("atomic_numbers", pa.list_(pa.uint8())),
            ("frac_coords", pa.list_(pa.float32())),
            ("lattice", pa.list_(pa.float32(), 9)),
            ("space_group", pa.uint8()),
            ("formation_energy", pa.float32()),
        ],
        metadata={"crystaljax": json.dumps(metadata)},
    )
    table = pa.table(
        {
            "id": [item.id for item in records],
            "prototype": [item.id.split(":")[0] for item in records],
            "atomic_numbers": [item.crystal.atomic_numbers for item in records],
            "frac_coords": [item.crystal.frac_coords.ravel() for item in records],
            "lattice": [item.crystal.lattice.ravel() for item in records],
            "space_group": [item.space_group for item in records],
            "formation_energy": [item.formation_energy for item in records],
        },
        schema=schema,
    )
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        writer.write_table(table)


def _read_table(path: str | pathlib.Path) -> pa.Table:
    with pa.ipc.open_file(str(path)) as reader:
        return reader.read_all()


def _scale(decoration: Decoration, volume: float) -> structure.Crystal | None:
    """Starting cell: the elements' volume, or more where bonds would be too short."""
    prototype = decoration.prototype
    numbers = decoration.atomic_numbers
    cell = prototype.lattice * (volume / np.linalg.det(prototype.lattice)) ** (1 / 3)
    crystal = structure.Crystal(numbers, prototype.frac_coords, cell)
    # EMT's own radii: in a close packing the volume per atom is d³ / √2.
    radii = [(np.sqrt(2) * _atomic_volume(int(n))) ** (1 / 3) / 2 for n in numbers]
    i, j, _, distance = bridge.to_pymatgen(crystal).get_neighbor_list(r=4.0)
    contact = np.array(radii)[i] + np.array(radii)[j]
    stretch = max(1.0, MIN_BOND / np.min(distance / contact))
    if stretch**3 > MAX_SWELLING:
        return None
    return dataclasses.replace(crystal, lattice=cell * stretch)


@functools.cache
def _atomic_volume(atomic_number: int) -> float:
    """Volume per atom (Å³) of the fcc metal, relaxed."""
    element = references.relax_element(CALCULATOR, atomic_number)
    return float(abs(np.linalg.det(element.crystal.lattice)))
