"""A file like a dump of the AFLOW database, of any size, whose truth is known.

    python experiments/data_at_scale/synthesize.py --num_structures=2100000 \
        --output=rows.csv --seed=0

for measuring what reading and training cost at the size of the paper's data. Crystals
are prototypes of the package and of pymatgen's AFLOW library, their supercells, and
orderings of two to four species on the sites of either; cells are scaled to the
elements' radii, 40 % are relaxed along what their symmetry leaves free. Members of a
polymorph group (one cell formula) lie scattered over the file. Energies follow a rule
that is made up: they can be learnt, and mean nothing.

Prints what the file holds as JSON. What was made wrong on purpose, and how often, is in
the constants of planning.py. The same seed gives the same file (with the same spglib).
"""

import functools
import gzip
import json
import pathlib
import time

import numpy as np
import planning
import templates

from crystaljax import command_line
from crystaljax.crystals import elements, structure
from crystaljax.system import options as options_lib

HEADER = (
    "auid,pretty_formula,elements,nsites,enthalpy_formation_atom,spacegroup_relax,"
    "geometry,positions_fractional"
)
GEOMETRY = ",".join(["%.6g"] * 6)

EXACT_SHARE, RELAXED_SHARE = 0.6, 0.25  # the rest has noise that no symmetry allows
MAX_STRAIN, MAX_SHIFT = 0.02, 0.02  # of the cell; of an atom, in edges of its cube
NOISE_STRAIN, NOISE_SHIFT = 0.003, 0.004
MAX_SCALING = 0.03
MIN_BOND = 0.85  # of the covalent radii's sum
# Numbers that ought to be 0 or 1 are off by this much in a third of the exact cells.
ROUNDING = 3e-5

BLOCK_ROWS = 20_000


# --- Rows -----------------------------------------------------------------------------


def write_rows(
    path: pathlib.Path, library: templates.Library, plan: planning.Plan, seed: int
) -> None:
    """Writes the file, block by block; it has its name only once it is complete."""
    formulas = _format_formulas(library, plan)
    exact_text = functools.cache(functools.partial(_format_exact, library))
    # The usual level 9 takes far longer than making the text.
    open_gzip = functools.partial(gzip.open, compresslevel=1)
    open_fn = open_gzip if path.suffix == ".gz" else open
    unfinished = path.with_name(path.name + ".part")
    num_rows = len(plan.crystal)
    with open_fn(unfinished, "wt", encoding="utf-8") as file:
        file.write(f"{HEADER}\n")
        for begin in range(0, num_rows, BLOCK_ROWS):
            rows = np.arange(begin, min(begin + BLOCK_ROWS, num_rows))
            file.write(_format_block(library, plan, seed, rows, formulas, exact_text))
    unfinished.replace(path)


def _format_block(library, plan, seed, rows, formulas, exact_text) -> str:
    # Copies of a crystal must agree: its numbers depend on the crystal, not the row.
    crystal = plan.crystal[rows]
    template, group = plan.template[crystal], plan.group[crystal]
    num_sites = np.diff(library.offsets)[template]
    kind = _uniform(crystal, 0, seed)
    relaxed = np.flatnonzero(kind >= EXACT_SHARE)
    is_noisy = kind[relaxed] >= EXACT_SHARE + RELAXED_SHARE
    changed = crystal[relaxed], template[relaxed], is_noisy, seed

    scale = _edges(library, plan, crystal) * (
        1 + MAX_SCALING * (2 * _uniform(crystal, 1, seed) - 1)
    )
    lattice = library.lattice[template] * scale[:, None, None]
    lattice[relaxed] += lattice[relaxed] @ _strains(library, *changed)
    is_off = 3 * _uniform(crystal, 2, seed) >= 2
    positions = list(map(exact_text, template.tolist(), is_off.tolist()))
    coords = _shifted_coords(library, *changed)
    by_row = np.split(coords, np.cumsum(num_sites[relaxed]))
    for row, row_coords in zip(relaxed, by_row, strict=False):
        positions[row] = _format_coords(row_coords)
    energy = _energies(library, plan, crystal, seed)
    wild = plan.wild[rows]
    energy = np.where(wild >= 0, np.array(planning.WILD_ENERGIES)[wild], energy)
    auid = _mix(rows.astype(np.uint64) + np.uint64((seed << 32) + 1))

    lines = [
        f'aflow:{name:016x},{formulas[g]},{n},{e:.6g},{s},"[{GEOMETRY % tuple(p)}]",'
        f'"{text}"\n'
        for name, g, n, e, s, p, text in zip(
            auid.tolist(),
            group.tolist(),
            num_sites.tolist(),
            energy.tolist(),
            library.space_group[template].tolist(),
            structure.lattice_parameters(lattice).tolist(),
            positions,
            strict=True,
        )
    ]
    for row in np.flatnonzero(plan.defect[rows] >= 0):
        lines[row] = _spoil(lines[row], planning.DEFECTS[plan.defect[rows[row]]])
    return "".join(lines)


def _spoil(line: str, defect: str) -> str:
    before, geometry, positions = line.rsplit('"[', 2)
    if defect == "short row":
        return before.rstrip(",") + "\n"
    if defect == "no geometry":
        return f'{before},"[{positions}'
    if defect == "no energy":
        before, _, space_group, _ = before.rsplit(",", 3)
        return f'{before},,{space_group},"[{geometry}"[{positions}'
    if defect == "site missing":
        return f'{before}"[{geometry}"[{positions.rpartition(",[")[0]}]"\n'
    raise ValueError(f"unknown defect {defect!r}; expected one of {planning.DEFECTS}")


def _format_formulas(library: templates.Library, plan: planning.Plan) -> list[str]:
    """Columns pretty_formula and elements of each group."""
    formulas = []
    names = planning.SYMBOLS.tolist()
    for counts, species in zip(
        library.counts[plan.composition].tolist(), plan.species.tolist(), strict=True
    ):
        present = [names[i] for i in species if i >= 0]
        formula = "".join(f"{s}{n}" for s, n in zip(present, counts, strict=False))
        formulas.append(f'{formula},"{present}"')
    return formulas


def _format_coords(coords: np.ndarray) -> str:
    sites = ",".join(["[%.6g,%.6g,%.6g]"] * len(coords))
    return f"[{sites}]" % tuple(coords.ravel().tolist())


def _format_exact(library: templates.Library, template: int, is_off: bool) -> str:
    begin, end = library.offsets[template : template + 2]
    coords = library.frac_coords[begin:end]
    if is_off:
        rng = np.random.default_rng(template)
        coords = coords + ROUNDING * rng.uniform(-1, 1, coords.shape)
    return _format_coords(coords)


def _edges(library, plan, crystal) -> np.ndarray:
    """Edge of an atom's cube, Å: by the elements' volumes, or the shortest bond."""
    group, template = plan.group[crystal], plan.template[crystal]
    numbers = np.array([elements.atomic_number(name) for name in planning.SYMBOLS])
    radii = elements.load_covalent_radii()[numbers - 1][plan.species[group]]
    counts = library.counts[plan.composition[group]]
    # Roughly the elements' volumes: 13 Å³ for Al, 46 Å³ for K.
    volume = np.sum((4 + 5 * radii**3) * counts, axis=1) / counts.sum(axis=1)
    bonds = MIN_BOND * (radii[:, :, None] + radii[:, None]) / library.nearest[template]
    return np.maximum(np.cbrt(volume), bonds.max(axis=(1, 2)))


def _strains(library, crystal, template, is_noisy, seed) -> np.ndarray:
    free = _symmetric_uniform(crystal, range(3, 9), seed)
    strain = MAX_STRAIN * np.einsum("rk,rkij->rij", free, library.strains[template])
    noise = _symmetric_uniform(crystal, range(9, 15), seed)
    noise = noise[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    return strain + NOISE_STRAIN * is_noisy[:, None, None] * noise


def _shifted_coords(library, crystal, template, is_noisy, seed) -> np.ndarray:
    """Coordinates of all sites of these crystals, one after the other."""
    num_sites = np.diff(library.offsets)[template]
    owner = np.repeat(np.arange(len(crystal)), num_sites)
    site = np.arange(len(owner)) - (np.cumsum(num_sites) - num_sites)[owner]
    flat = library.offsets[template][owner] + site
    free = _symmetric_uniform(crystal, range(15, 15 + templates.NUM_MODES), seed)
    shifts = np.einsum("sik,sk->si", library.modes[flat], free[owner])
    coords = library.frac_coords[flat] + MAX_SHIFT * shifts
    noisy = np.flatnonzero(is_noisy[owner])
    which = crystal[owner[noisy]] * 128 + site[noisy]
    noise = _symmetric_uniform(which, range(32, 35), seed)
    inverse = np.linalg.inv(library.lattice[template])[owner[noisy]]
    coords[noisy] += NOISE_SHIFT * np.einsum("si,sij->sj", noise, inverse)
    return coords


def _energies(library, plan, crystal, seed) -> np.ndarray:
    """Formation energies, eV/atom: unlike species attract; a term of the template."""
    group, template = plan.group[crystal], plan.template[crystal]
    counts = library.counts[plan.composition[group]]
    shares = counts / counts.sum(axis=1, keepdims=True)
    symbols = np.arange(len(planning.SYMBOLS))
    charge = _uniform(symbols, 40, 0)[plan.species[group]]
    unlike = (charge[:, :, None] - charge[:, None]) ** 2
    base = -2 * np.einsum("ri,rj,rij->r", shares, shares, unlike)
    # The square makes low energies the common ones.
    above = 0.8 * _uniform(template, 41, 0) ** 2 + 0.1 * _uniform(crystal, 42, seed)
    return base + above


def _symmetric_uniform(index: np.ndarray, streams: range, seed: int) -> np.ndarray:
    """Random numbers in [-1, 1); shape (index, streams)."""
    return 2 * np.stack([_uniform(index, s, seed) for s in streams], axis=1) - 1


def _uniform(index: np.ndarray, stream: int, seed: int) -> np.ndarray:
    """Random numbers in [0, 1) that depend on the arguments alone."""
    key = _mix(np.array([seed * 64 + stream + 1], np.uint64))
    return (_mix(index.astype(np.uint64) + key) >> np.uint64(11)) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64: different integers give different, random-looking ones."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


# --- Summary --------------------------------------------------------------------------


def summarise(library: templates.Library, plan: planning.Plan) -> dict:
    """What the file holds, and what the paper's selection should leave of it."""
    group = plan.group[plan.crystal]
    counts = library.counts[plan.composition]
    num_sites = counts.sum(axis=1)[group]
    space_group = library.space_group[plan.template[plan.crystal]]
    num_species = np.count_nonzero(counts, axis=1)[group]
    usable = (plan.defect < 0) & (plan.wild < 0) & ~plan.is_copy
    usable &= (num_sites >= 4) & (num_sites <= 60)
    sizes = np.bincount(group[usable], minlength=len(counts))
    is_usable_group = (sizes >= 7) & (sizes <= 71)
    usable &= is_usable_group[group]

    space_group_share = np.bincount(space_group[usable], minlength=231) / usable.sum()
    species = plan.species[group[usable]]
    num_symbols = len(planning.SYMBOLS)
    element_count = np.bincount(species[species >= 0], minlength=num_symbols)
    is_common = element_count / usable.sum() >= 0.01
    # Index -1, where there is no species, finds the True appended.
    kept = usable & np.append(is_common, True)[plan.species[group]].all(axis=1)
    kept &= space_group_share[space_group] >= 0.01
    quantiles = np.percentile(num_sites, [1, 25, 50, 75, 99, 100])
    return {
        "rows": len(group),
        "groups": len(np.unique(group)),
        "duplicates": int(plan.is_copy.sum()),
        "wild_energies": int(np.sum(plan.wild >= 0)),
        "malformed": {
            name: int(np.sum(plan.defect == i))
            for i, name in enumerate(planning.DEFECTS)
        },
        "sites_mean": round(float(num_sites.mean()), 2),
        "sites_percentiles_1_25_50_75_99_100": quantiles.astype(int).tolist(),
        "num_species": {str(k): int(np.sum(num_species == k)) for k in range(1, 5)},
        "space_groups": len(np.unique(space_group)),
        "expected_of_the_papers_rules": {
            "structures_in_groups": int(usable.sum()),
            "groups_of_7_to_71": int(is_usable_group.sum()),
            "elements": int(is_common.sum()),
            "space_groups": np.flatnonzero(space_group_share >= 0.01).tolist(),
            "structures": int(kept.sum()),
            "groups": len(np.unique(group[kept])),
        },
    }


@options_lib.frozen
class Options:
    """What to make."""

    num_structures: int = options_lib.option(
        "Rows of the file.", default=2_100_000, lower=1
    )
    output: str = options_lib.option("File to write; gzip if it ends in .gz.")
    seed: int = options_lib.option("Of everything.", default=0, lower=0)
    overwrite: bool = options_lib.option("Replace the output.", default=False)


def run(options: Options) -> None:
    """Writes the file, and prints what it holds."""
    path = pathlib.Path(options.output)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path} exists; replace it with `overwrite=True`")
    start = time.perf_counter()
    library = templates.build_library(options.seed)
    built = time.perf_counter()
    plan = planning.make_plan(library, options.num_structures, options.seed)
    write_rows(path, library, plan, options.seed)
    seconds = time.perf_counter() - built
    summary = summarise(library, plan) | {
        "templates": len(library.space_group),
        "bytes": path.stat().st_size,
        "seconds_templates": round(built - start, 1),
        "seconds_rows": round(seconds, 1),
        "rows_per_second": round(options.num_structures / seconds),
    }
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    command_line.run(command_line.Command("synthesize", __doc__, (Options,), run))
