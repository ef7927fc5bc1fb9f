"""How far a network in JAX is from its package: 30 crystals, and what to compare.

Crystals of 1 to 60 sites, made here: skewed and small cells whose images matter,
isolated atoms, atoms 0.5 Å apart. Each is computed in float64 and float32. It is also
turned, its sites are permuted, its cell doubled, a site moved and the cell strained
(finite differences), and two atoms part beyond the cutoff. `sevennet_agreement.py` and
`nequix_agreement.py` are the commands.
"""

import contextlib
from collections.abc import Callable

import ase
import ase.build
import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.relaxation.potentials import neighbors, potential

STEP = 1e-3  # Å, or strain
SITES, NODES, EDGES, PLACES = 128, 512, 10240, 16
ROTATION = (40, (1, 2, 3))


# --------------------------------------------------------------------------- crystals
def cell(symbols: str, lattice, frac) -> ase.Atoms:
    """Crystal by its fractional coordinates."""
    return ase.Atoms(symbols, cell=lattice, scaled_positions=frac, pbc=True)


def rattled(atoms: ase.Atoms, size: float = 0.08) -> ase.Atoms:
    """Sites displaced and cell strained: nothing is 0 by symmetry."""
    rng = np.random.default_rng(len(atoms))
    strain = rng.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(np.array(atoms.cell) @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += rng.normal(scale=size, size=(len(atoms), 3))
    return atoms


def pair(symbols: str, distance: float, side: float) -> ase.Atoms:
    """Two atoms in a box."""
    direction = np.array([1, 2, 2]) / 3
    positions = [[1, 1, 1], [1, 1, 1] + distance * direction]
    return ase.Atoms(symbols, positions, cell=[side] * 3, pbc=True)


def make_crystals() -> dict[str, ase.Atoms]:
    """30 crystals of different chemistry."""
    bulk = ase.build.bulk
    perovskite = [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    rutile = [[0, 0, 0], [0.5] * 3]
    rutile += [[u, u, 0] for u in (0.305, 0.695)]
    rutile += [[0.5 + u, 0.5 - u, 0.5] for u in (0.305, -0.305)]
    skewed = [[3.1, 0, 0], [1.9, 3.3, 0], [-1.2, 0.8, 4.4]]
    needle = [[2.6, 0, 0], [9.1, 2.9, 0], [-7.4, 3.3, 3.0]]
    close_metal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    close_metal.positions[1] = close_metal.positions[0] + [0.3, 0.4, 0]
    close_alloy = bulk("W", a=3.16, cubic=True).repeat((2, 1, 1))
    close_alloy.symbols[:2] = "TaB"
    close_alloy.positions[1] = close_alloy.positions[0] + [0, 0, 0.5]
    organic = ase.build.molecule("CH3CH2OH")
    organic.set_cell([5.5, 6.0, 6.5])
    organic.pbc = True
    graphite = ase.build.graphene("C2", vacuum=1.7)
    graphite.pbc = True
    return {
        "Cu, 1 site": bulk("Cu"),
        "Ta, 1 site strained": rattled(bulk("Ta")),
        "Cu, thin cell": ase.Atoms("Cu", cell=[2.3, 2.4, 9.0], pbc=True),
        "Li, tiny cell": ase.Atoms("Li", cell=[1.8, 1.9, 2.0], pbc=True),
        "Si": rattled(bulk("Si")),
        "GaAs": rattled(bulk("GaAs", "zincblende", a=5.65)),
        "NaCl": rattled(bulk("NaCl", "rocksalt", a=5.64)),
        "CsI": rattled(bulk("CsI", "cesiumchloride", a=4.57)),
        "Ti": rattled(bulk("Ti")),
        "ZnO": rattled(bulk("ZnO", "wurtzite", a=3.25, c=5.2)),
        "ThO2": rattled(bulk("ThO2", "fluorite", a=5.6)),
        "MgO, 8 sites": rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True)),
        "SrTiO3": rattled(cell("SrTiO3", np.eye(3) * 3.9, perovskite)),
        "CsPbI3": rattled(cell("CsPbI3", np.eye(3) * 6.3, perovskite)),
        "TiO2": rattled(cell("Ti2O4", np.diag([4.59, 4.59, 2.96]), rutile)),
        "graphite": rattled(graphite),
        "NaClO, skewed": cell(
            "NaClO", skewed, [[0.1, 0.2, 0.3], [0.6] * 3, [0.3, 0.9, 0.1]]
        ),
        "FeS, very skewed": cell("FeS", needle, [[0.1, 0.2, 0.3], [0.55, 0.6, 0.8]]),
        "O, isolated": ase.Atoms("O", cell=[11, 12, 13], pbc=True),
        "U, isolated": ase.Atoms("U", cell=[12, 12, 12], pbc=True),
        "O2, 0.5 Å": pair("O2", 0.5, 8.0),
        "HF, 0.5 Å": pair("HF", 0.5, 7.0),
        "NaCl, two atoms 0.5 Å apart": close_metal,
        "TaBW2, two atoms 0.5 Å apart": close_alloy,
        "ethanol": organic,
        "LaAlO3, 20 sites": rattled(
            cell("LaAlO3", np.eye(3) * 3.8, perovskite).repeat((2, 2, 1))
        ),
        "Cu3Au, 32 sites": rattled(
            cell(
                "AuCu3",
                np.eye(3) * 3.75,
                [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
            ).repeat(2)
        ),
        "Al2O3-like, 40 sites": rattled(
            cell("AlO", np.eye(3) * 3.0, [[0, 0, 0], [0.5] * 3]).repeat((5, 2, 2))
        ),
        "KBr, 54 sites": rattled(bulk("KBr", "rocksalt", a=6.6).repeat(3)),
        "BaTiO3, 60 sites": rattled(
            cell("BaTiO3", np.eye(3) * 4.0, perovskite).repeat((3, 2, 2))
        ),
    }


def variants(atoms: ase.Atoms) -> dict[str, ase.Atoms]:
    """The crystal written differently, and a little changed."""
    rotated = atoms.copy()
    rotated.rotate(*ROTATION, rotate_cell=True)
    found = {
        "itself": atoms,
        "rotated": rotated,
        "permuted": atoms[np.random.default_rng(0).permutation(len(atoms))],
        "doubled": atoms.repeat((1, 2, 1)),
    }
    for sign in (1, -1):
        moved, strained = atoms.copy(), atoms.copy()
        moved.positions[-1, 1] += sign * STEP
        strain = np.zeros((3, 3))
        strain[0, 1] = sign * STEP
        lattice = np.array(atoms.cell) @ (np.eye(3) + strain)
        strained.set_cell(lattice, scale_atoms=True)
        found |= {f"moved{sign}": moved, f"strained{sign}": strained}
    return found


# ------------------------------------------------------------------------ evaluations
class InJax:
    """Evaluates crystals in batches of one shape, compiled once for a precision."""

    def __init__(self, built: potential.Potential):
        assert built.room is not None
        self._built, self._room = built, built.room

        @jax.jit
        def run(numbers, packed, frac, lattice):
            energy_fn = built.bind(numbers, packed)
            return potential.energies_forces_stresses(energy_fn, frac, lattice)

        self._run = run

    def __call__(self, crystals: list[ase.Atoms], dtype: str) -> list:
        """Energies, forces and stresses of all."""
        found, batch, filled = [], [], 0
        for atoms in crystals:
            frac = atoms.get_scaled_positions(wrap=False)
            listed = neighbors.find(frac, np.array(atoms.cell), self._built.reach)
            num_edges = self._room.count(listed.count)
            if batch and (len(batch) == PLACES or filled + num_edges > EDGES):
                found += self._evaluate(batch, dtype)
                batch, filled = [], 0
            batch.append((atoms, listed))
            filled += num_edges
        return found + self._evaluate(batch, dtype)

    def _evaluate(self, batch, dtype):
        numbers = np.zeros((PLACES, SITES), np.int32)
        frac = np.zeros((PLACES, SITES, 3))
        lattice = np.tile(np.eye(3), (PLACES, 1, 1))
        lists = [listed for _, listed in batch] + [None] * (PLACES - len(batch))
        for i, (atoms, _) in enumerate(batch):
            numbers[i, : len(atoms)] = atoms.numbers
            frac[i, : len(atoms)] = atoms.get_scaled_positions(wrap=False)
            lattice[i] = atoms.cell
        packed = self._built.pack(lists, SITES, self._room.reserve(NODES, EDGES))
        with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
            inputs = numbers, packed, frac.astype(dtype), lattice.astype(dtype)
            inputs = jax.tree.map(jnp.asarray, inputs)
            energies, forces, stresses = jax.device_get(self._run(*inputs))
        return [
            (float(energies[i]), forces[i, : len(atoms)], stresses[i])
            for i, (atoms, _) in enumerate(batch)
        ]


# --------------------------------------------------------------------------- measures
def measure(
    built: potential.Potential,
    by_package: Callable[[ase.Atoms], tuple],
    crystals: dict[str, ase.Atoms],
) -> dict:
    """Largest differences, and those of each crystal.

    Args:
        built: the potential in JAX.
        by_package: crystal → energy (eV), forces (eV/Å), stress (eV/Å³) in float64.
        crystals: by what they are.
    """
    in_jax = InJax(built)
    kinds = list(variants(next(iter(crystals.values()))))
    many = [v for atoms in crystals.values() for v in variants(atoms).values()]
    exact = in_jax(many, "float64")
    single = in_jax(list(crystals.values()), "float32")
    rows = {}
    for i, (title, atoms) in enumerate(crystals.items()):
        expected = by_package(atoms)
        start = i * len(kinds)
        found = dict(zip(kinds, exact[start : start + len(kinds)], strict=True))
        rows[title] = {
            "num_sites": len(atoms),
            "largest_force": float(np.abs(expected[1]).max()),
            "float64": apart(found["itself"], expected, len(atoms)),
            "float32": apart(single[i], expected, len(atoms)),
            **consistency(atoms, found),
        }
    worst = {
        dtype: {
            unit: max(row[dtype][unit] for row in rows.values())
            for unit in ("ev_per_atom", "ev_per_angstrom", "ev_per_cubic_angstrom")
        }
        for dtype in ("float64", "float32")
    }
    checks = [k for k in next(iter(rows.values())) if k.startswith("error_of_")]
    worst |= {check: max(row[check] for row in rows.values()) for check in checks}
    # Where atoms lie on each other forces are hundreds of eV/Å.
    gentle = [row for row in rows.values() if row["largest_force"] < 30]
    worst["float32, forces below 30 eV/Å"] = {
        unit: max(row["float32"][unit] for row in gentle) for unit in worst["float32"]
    }
    return {
        "worst": worst,
        "at_the_cutoff": at_the_cutoff(in_jax, built.cutoff),
        "crystals": rows,
    }


def apart(found, expected, num_sites: int) -> dict[str, float]:
    """Largest differences of energy, forces and stress."""
    return {
        "ev_per_atom": abs(found[0] - expected[0]) / num_sites,
        "ev_per_angstrom": float(np.abs(found[1] - expected[1]).max()),
        "ev_per_cubic_angstrom": float(np.abs(found[2] - expected[2]).max()),
    }


def consistency(atoms: ase.Atoms, found: dict) -> dict[str, float]:
    """Invariances, eV/atom, and derivatives against differences, relative."""
    energy, forces, stress = found["itself"]
    count = len(atoms)
    slope = (found["moved1"][0] - found["moved-1"][0]) / (2 * STEP)
    virial = (found["strained1"][0] - found["strained-1"][0]) / (2 * STEP)
    turned = ase.Atoms(positions=forces, cell=np.eye(3))
    turned.rotate(*ROTATION)
    return {
        "error_of_rotation": abs(found["rotated"][0] - energy) / count,
        "error_of_rotated_forces": float(
            np.abs(found["rotated"][1] - turned.positions).max()
        ),
        "error_of_permutation": abs(found["permuted"][0] - energy) / count,
        "error_of_supercell": abs(found["doubled"][0] / 2 - energy) / count,
        "error_of_forces": float(
            abs(forces[-1, 1] + slope) / max(1, np.abs(forces).max())
        ),
        "error_of_stress": float(
            abs(stress[0, 1] * atoms.get_volume() - virial)
            / max(1, np.abs(stress).max() * atoms.get_volume())
        ),
    }


def at_the_cutoff(in_jax: InJax, cutoff: float) -> dict[str, float]:
    """Two atoms that part: the largest jump of the energy, and of the force."""
    worst = {"energy_jump_ev": 0.0, "force_jump_ev_per_angstrom": 0.0}
    for symbols in ("O2", "NaCl", "TaW"):
        gaps = (-1e-6, 1e-6)
        pairs = [pair(symbols, cutoff + gap, 14.0) for gap in gaps]
        near, far = in_jax(pairs, "float64")
        jumps = abs(near[0] - far[0]), float(np.abs(near[1] - far[1]).max())
        for key, jump in zip(worst, jumps, strict=True):
            worst[key] = max(worst[key], jump)
    return worst
