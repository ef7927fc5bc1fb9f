"""vasprun.xml of relaxations that never ran, with what VASP writes into one."""

import numpy as np

from crystaljax.crystals import elements


def titles(symbols, suffixes=()):
    suffixes = dict(suffixes)
    return [f"PAW_PBE {s}{suffixes.get(s, '')} 08Apr2002" for s in symbols]


def write_run(
    folder,
    crystal,
    energies,
    *,
    name="vasprun.xml",
    crystals=None,
    forces=None,
    nelm=60,
    nsw=99,
    num_electronic=3,
    cutoff=500.0,
    gga="PE",
    hubbards=None,
    potentials=None,
    metagga=None,
    tags=None,
    stress=None,
    free=None,
    divisions=(5, 5, 5),
):
    """Writes a run whose ionic steps have these total energies (eV per cell)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        text(
            crystal,
            energies,
            crystals=crystals,
            forces=forces,
            nelm=nelm,
            nsw=nsw,
            num_electronic=num_electronic,
            cutoff=cutoff,
            gga=gga,
            hubbards=hubbards or {},
            potentials=potentials,
            metagga=metagga,
            more=tags or {},
            stress=stress,
            free=free,
            divisions=divisions,
        )
    )
    return path


def text(
    crystal,
    energies,
    *,
    crystals,
    forces,
    nelm,
    nsw,
    num_electronic,
    cutoff,
    gga,
    hubbards,
    potentials,
    metagga,
    more,
    stress,
    free,
    divisions,
):
    symbols = [elements.symbol(int(n)) for n in crystal.atomic_numbers]
    species = list(dict.fromkeys(symbols))
    potentials = potentials or titles(species)
    incar = {"ENCUT": cutoff, "GGA": gga, "NSW": nsw, "IBRION": 2}
    if metagga:
        incar["METAGGA"] = metagga
    ldau = {}
    if hubbards:
        ldau = {"LDAU": True, "LDAUU": [hubbards.get(s, 0.0) for s in species]}
        ldau["LDAUJ"] = [0.0] * len(species)
    parameters = incar | {"ENMAX": cutoff, "NELM": nelm, "ISPIN": 1, "EDIFFG": -0.01}
    # What pymatgen tells functionals by.
    parameters |= {"AEXX": 0.0, "HFSCREEN": 0.0, "LHFCALC": False, "LUSE_VDW": False}
    parameters |= {"LDAU": bool(hubbards)} | ldau | more
    crystals = crystals or [crystal] * len(energies)
    forces = np.zeros((len(symbols), 3)) if forces is None else forces
    stress = np.zeros((3, 3)) if stress is None else stress
    steps = [
        calculation(each, energy, forces, num_electronic, stress)
        for each, energy in zip(crystals, energies, strict=True)
    ]
    final = crystals[-1] if crystals else crystal
    return "\n".join(
        [
            '<?xml version="1.0" encoding="ISO-8859-1"?>',
            "<modeling>",
            "<generator>",
            *tags({"program": "vasp", "version": "6.4.2"}),
            "</generator>",
            "<incar>",
            *tags(incar | ldau | more),
            "</incar>",
            '<kpoints><generation param="Gamma">',
            f'<v type="int" name="divisions"> {" ".join(map(str, divisions))} </v>',
            "</generation>",
            varray("kpointlist", np.zeros((1, 3))),
            varray("weights", np.ones((1, 1))),
            "</kpoints>",
            "<parameters>",
            '<separator name="electronic">',
            *tags(parameters),
            "</separator>",
            "</parameters>",
            atom_info(symbols, species, potentials),
            structure(crystal, ' name="initialpos"', free),
            *steps,
            structure(final, ' name="finalpos"', free),
            "</modeling>",
            "",
        ]
    )


def tags(values):
    lines = []
    for name, value in values.items():
        if isinstance(value, list):
            numbers = " ".join(f"{each:.8f}" for each in value)
            lines.append(f'<v name="{name}"> {numbers} </v>')
        elif isinstance(value, bool):
            lines.append(f'<i type="logical" name="{name}"> {"FT"[value]} </i>')
        elif isinstance(value, int):
            lines.append(f'<i type="int" name="{name}"> {value} </i>')
        elif isinstance(value, str):
            lines.append(f'<i type="string" name="{name}">{value}</i>')
        else:
            lines.append(f'<i name="{name}"> {value:.8f} </i>')
    return lines


def varray(name, rows):
    lines = [f"<v> {' '.join(f'{x:.8f}' for x in row)} </v>" for row in rows]
    return "\n".join([f'<varray name="{name}">', *lines, "</varray>"])


def structure(crystal, name="", free=None):
    lattice = np.asarray(crystal.lattice)
    flags = []
    if free is not None:
        # What selective dynamics lets move.
        rows = [" ".join("FT"[bool(flag)] for flag in row) for row in free]
        lines = [f"<v> {row} </v>" for row in rows]
        flags = ['<varray name="selective" type="logical" >', *lines, "</varray>"]
    return "\n".join(
        [
            f"<structure{name}>",
            "<crystal>",
            varray("basis", lattice),
            f'<i name="volume"> {abs(np.linalg.det(lattice)):.8f} </i>',
            varray("rec_basis", np.linalg.inv(lattice).T),
            "</crystal>",
            varray("positions", crystal.frac_coords),
            *flags,
            "</structure>",
        ]
    )


def energy_tags(energy):
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    values = (energy - 0.02, energy + 0.02, energy)
    lines = [
        f'<i name="{name}"> {value:.8f} </i>'
        for name, value in zip(names, values, strict=True)
    ]
    return "\n".join(["<energy>", *lines, "</energy>"])


def calculation(crystal, energy, forces, num_electronic, stress):
    electronic = [
        f"<scstep>{energy_tags(energy + 0.1 * (num_electronic - 1 - i))}</scstep>"
        for i in range(num_electronic)
    ]
    return "\n".join(
        [
            "<calculation>",
            *electronic,
            structure(crystal),
            varray("forces", forces),
            varray("stress", stress),
            energy_tags(energy),
            "</calculation>",
        ]
    )


def atom_info(symbols, species, potentials):
    atoms = [f"<rc><c>{s}</c><c> {species.index(s) + 1}</c></rc>" for s in symbols]
    types = [
        f"<rc><c> {symbols.count(s)}</c><c>{s}</c><c> 1.0</c><c> 4.0</c>"
        f"<c> {title} </c></rc>"
        for s, title in zip(species, potentials, strict=True)
    ]
    return "\n".join(
        [
            "<atominfo>",
            f"<atoms> {len(symbols)} </atoms>",
            f"<types> {len(species)} </types>",
            '<array name="atoms">',
            "<set>",
            *atoms,
            "</set>",
            "</array>",
            '<array name="atomtypes">',
            "<set>",
            *types,
            "</set>",
            "</array>",
            "</atominfo>",
        ]
    )
