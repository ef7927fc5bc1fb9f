"""Makes crystaljax/crystals/tables/space_groups*.npz from pymatgen and spglib.

    python experiments/tables/make_space_groups.py

takes 10 s. pymatgen holds the operations of a group as a Python set: in
space_groups.npz they are sorted. The order of the set matters to weights of the paper's
PyTorch code, whose network was given it. It is the same in every run, since pymatgen's
operations all have one hash and a set then keeps the order of insertion but for its
table's growth; space_groups_reference.npz has it, translations as pymatgen has them.
Symbols are spglib's short ones, since pymatgen has some monoclinic ones in full
(``C12/m1``).
"""

import importlib.metadata
import pathlib

import numpy as np
import spglib
from pymatgen.symmetry import groups

TABLES = pathlib.Path(__file__).parents[2] / "crystaljax" / "crystals" / "tables"
NUM_SPACE_GROUPS = 230
TRANSLATION_DENOMINATOR = 24


def reference_operations(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 3, 3) and translations (n, 3) in 24ths, as pymatgen has them."""
    symbol = groups.sg_symbol_from_int_number(number)
    operations = groups.SpaceGroup(symbol).symmetry_ops
    matrices = np.array([operation.affine_matrix for operation in operations])
    rotations = np.rint(matrices[:, :3, :3]).astype(int)
    scaled = matrices[:, :3, 3] * TRANSLATION_DENOMINATOR
    translations = np.rint(scaled).astype(int)
    # pymatgen's thirds are rounded to a few digits.
    assert np.allclose(matrices[:, :3, :3], rotations)
    assert np.allclose(scaled, np.rint(scaled), atol=1e-3)
    return rotations, translations


def sorted_operations(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The same in the documented order, translations in [0, 24)."""
    rotations, translations = reference_operations(number)
    translations = translations % TRANSLATION_DENOMINATOR

    def sort_key(index: int) -> tuple:
        rotation = rotations[index]
        # The identity's trace of 3 is the largest of all.
        return (
            -round(np.linalg.det(rotation)),
            -np.trace(rotation),
            tuple(-rotation.ravel()),
            tuple(translations[index]),
        )

    order = sorted(range(len(rotations)), key=sort_key)
    return rotations[order], translations[order]


def short_symbols() -> dict[int, str]:
    """Space-group number → short Hermann-Mauguin symbol."""
    symbols: dict[int, str] = {}
    for hall_number in range(1, 531):
        group = spglib.get_spacegroup_type(hall_number)
        # The first setting of a group is the standard one.
        symbols.setdefault(group.number, group.international_short)
    return symbols


def stack(operations_fn) -> dict[str, np.ndarray]:
    """Operations of all groups, one after the other."""
    rotations, translations = zip(
        *(operations_fn(number) for number in range(1, NUM_SPACE_GROUPS + 1)),
        strict=True,
    )
    return {
        "rotations": np.concatenate(rotations).astype(np.int8),
        "translations": np.concatenate(translations).astype(np.int8),
        "orders": np.array([0, *map(len, rotations)], dtype=np.int16),
        "made_with": np.array(
            [
                f"{name} {importlib.metadata.version(name)}"
                for name in ("pymatgen", "spglib")
            ]
        ),
    }


def main() -> None:
    """Makes the tables."""
    symbols = short_symbols()
    tables = {
        "space_groups": stack(sorted_operations)
        | {
            "symbols": np.array(
                ["", *(symbols[n] for n in range(1, NUM_SPACE_GROUPS + 1))]
            )
        },
        "space_groups_reference": stack(reference_operations),
    }
    for name, arrays in tables.items():
        path = TABLES / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
