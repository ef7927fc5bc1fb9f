"""Formation energies of 20 binaries with pretrained potentials, beside DFT.

    python experiments/formation_energies/run.py --calculators=chgnet,sevenn \
        --output=experiments/formation_energies/result.json

Compounds of simple prototypes, from experimental lattice parameters; relaxed, and
against the elements of the table relaxed with the same potential, with the Materials
Project's corrections (MP2020) where the potential has not learned them. Beside them are
formation energies as the Materials Project has them (PBE(+U) with corrections), from
memory and not read off: good for sign and size, not for differences below 0.05 eV/atom.
"""

import argparse
import json
import pathlib
import resource

import ase.spacegroup
import numpy as np

from crystaljax.crystals import bridge
from crystaljax.hull import energy_scale
from crystaljax.relaxation import ase_relaxation, references
from crystaljax.system import environment, isolation

HEXAGONAL = (90, 90, 120)
CUBIC = (90, 90, 90)
THIRD = 1 / 3
ROCK_SALT = (225, [(0, 0, 0), (0.5, 0.5, 0.5)])
CSCL = (221, [(0, 0, 0), (0.5, 0.5, 0.5)])
ZINC_BLENDE = (216, [(0, 0, 0), (0.25, 0.25, 0.25)])
ALB2 = (191, [(0, 0, 0), (THIRD, 2 * THIRD, 0.5)])
L12 = (221, [(0, 0, 0), (0.5, 0.5, 0)])
FLUORITE = (225, [(0, 0, 0), (0.25, 0.25, 0.25)])

# (name, symbols, (group, sites), a, c or None, DFT formation energy in eV/atom).
BINARIES = [
    ("TiB2", ("Ti", "B"), ALB2, 3.03, 3.23, -1.06),
    ("ZrB2", ("Zr", "B"), ALB2, 3.17, 3.53, -1.03),
    ("MgB2", ("Mg", "B"), ALB2, 3.09, 3.52, -0.15),
    ("TaB2", ("Ta", "B"), ALB2, 3.10, 3.23, -0.64),
    ("TiC", ("Ti", "C"), ROCK_SALT, 4.33, None, -0.81),
    ("TaC", ("Ta", "C"), ROCK_SALT, 4.46, None, -0.57),
    ("HfC", ("Hf", "C"), ROCK_SALT, 4.64, None, -0.94),
    ("SiC", ("Si", "C"), ZINC_BLENDE, 4.36, None, -0.22),
    ("TiN", ("Ti", "N"), ROCK_SALT, 4.24, None, -1.92),
    ("ZrN", ("Zr", "N"), ROCK_SALT, 4.58, None, -1.92),
    ("BN zinc blende", ("B", "N"), ZINC_BLENDE, 3.62, None, -1.38),
    ("MgO", ("Mg", "O"), ROCK_SALT, 4.21, None, -3.04),
    ("CaO", ("Ca", "O"), ROCK_SALT, 4.81, None, -3.31),
    ("Li2O", ("O", "Li"), FLUORITE, 4.62, None, -2.07),
    ("NaCl", ("Na", "Cl"), ROCK_SALT, 5.64, None, -2.11),
    ("LiF", ("Li", "F"), ROCK_SALT, 4.03, None, -3.18),
    ("NiAl", ("Ni", "Al"), CSCL, 2.89, None, -0.66),
    ("Ni3Al", ("Al", "Ni"), L12, 3.57, None, -0.43),
    ("Cu3Au", ("Au", "Cu"), L12, 3.75, None, -0.04),
    ("TiFe", ("Ti", "Fe"), CSCL, 2.98, None, -0.42),
]
SETTINGS = ase_relaxation.RelaxationSettings(fmax=0.02, max_steps=200)


def build(symbols, prototype, a, c):
    """Crystal of a compound, primitive cell."""
    group, basis = prototype
    cell = (a, a, a, *CUBIC) if c is None else (a, a, c, *HEXAGONAL)
    atoms = ase.spacegroup.crystal(
        symbols, basis=basis, spacegroup=group, cellpar=cell, primitive_cell=True
    )
    return bridge.from_ase(atoms)


def measure(calculator, num_workers):
    """Rows of one calculator."""
    crystals = [build(*each[1:5]) for each in BINARIES]
    where = isolation.WorkerOptions(num_workers=num_workers)
    numbers = {int(n) for crystal in crystals for n in crystal.atomic_numbers}
    energies, problems = references.element_energies(
        calculator, numbers, worker_options=where
    )
    relaxed = ase_relaxation.relax_many(crystals, calculator, SETTINGS, where)
    scale = energy_scale.EnergyScale(
        energy_scale.energy_model(calculator),
        energies,
        energy_scale.adds_corrections(calculator),
    )
    rows = []
    for (name, *_, dft), each in zip(BINARIES, relaxed, strict=True):
        row = {"name": name, "dft": dft, "failure": each.failure}
        if not each.failure:
            found = scale.formation_energy(each.crystal, each.energy)
            row["formation_energy"] = round(found, 4)
        rows.append(row)
    differences = np.array(
        [row["formation_energy"] - row["dft"] for row in rows if not row["failure"]]
    )
    return {
        "calculator": calculator,
        "energy_model": scale.energy_model,
        "mean_difference": round(float(np.mean(differences)), 4),
        "mean_absolute_difference": round(float(np.mean(np.abs(differences))), 4),
        "largest_difference": round(float(np.max(np.abs(differences))), 4),
        "elements": {str(number): round(e, 4) for number, e in energies.items()},
        "problems": problems,
        "rows": rows,
    }


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calculators", default="chgnet,sevenn")
    parser.add_argument("--num_workers", type=int, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    results = []
    for calculator in options.calculators.split(","):
        results.append(measure(calculator, options.num_workers))
        usage = [
            resource.getrusage(which)
            for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        record = {
            "results": results,
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage)),
            "versions": environment.package_versions(),
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    for i, (name, *_) in enumerate(BINARIES):
        values = "".join(
            f"{result['rows'][i].get('formation_energy', float('nan')):10.3f}"
            for result in results
        )
        print(f"{name:<16}{BINARIES[i][-1]:10.2f}{values}")
    for result in results:
        print(
            f"{result['energy_model']}: mean difference "
            f"{result['mean_difference']:+.3f}, absolute "
            f"{result['mean_absolute_difference']:.3f}, largest "
            f"{result['largest_difference']:.3f} eV/atom"
        )


if __name__ == "__main__":
    main()
