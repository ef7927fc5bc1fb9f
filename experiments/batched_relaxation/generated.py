"""Crystals of many chemistries to relax: samples of the model of the package."""

import pathlib

import ase.io
import numpy as np

from crystaljax import sample
from crystaljax.crystals import bridge, structure
from crystaljax.sampling import samples as sample_files

# Salts, oxides, chalcogenides, intermetallics, semiconductors, refractory compounds.
FORMULAS = """
    NaCl MgO CaS SrSe KBr LiF ZnS GaAs AlN InP CdTe TiC ZrN VN FeAl NiTi CuZn CoAl CsCl
    TaB NbC MoB TiO2 SnO2 CaF2 MgF2 ZrO2 CeO2 MoS2 WSe2 FeS2 NiS2 CaC2 TiB2 MgB2 CdI2
    PbCl2 Mg2Si Li2O Na2S Ni2Si Co2P Al2O3 Fe2O3 Cr2O3 La2O3 Bi2Te3 Sb2Se3 Mg3N2 Ca3P2
    Na3Bi TaB2 AlCl3 ScF3 ReO3 WO3 Al3Ti Ni3Al Cu3Au Nb3Sn V3Si SrTiO3 BaTiO3 CaTiO3
    KNbO3 LaAlO3 CsPbI3 NaMgF3 LiNbO3 CaCO3 MgSiO3 CuAlO2 LiCoO2 NaFeO2 AgGaS2 CuInSe2
    LiFeAs NaZnSb MgAl2O4 ZnFe2O4 Li2TiO3 K2PtCl6 La2CuO4 K2NiF4 BaZrO3 TaWB2 Ta2WB
    Co2MnSi Ni2MnGa Fe2VAl ZrNiSn TiCoSb Li3N Ca2Sn YBa2Cu3O7 LiFePO4 ZrSiO4 CaWO4
    BaSO4 Y2O3 SiO2 GeSe2 MgZn2 CaCu5 Fe3C Cr3Si U3O8 ThO2
"""

# Noise of the starts, largest values.
STRAIN = 0.05
DISPLACEMENT = 0.1  # Å


def load(
    path: pathlib.Path, count: int, min_sites: int = 1, max_sites: int = 20
) -> list[structure.Crystal]:
    """The first crystals of a size in a file; samples, made now, if there is none."""
    if not path.exists():
        options = sample.SampleOptions(formulas=tuple(FORMULAS.split()))
        made = sample.sample(options, show_progress=True)
        sample_files.write_samples(made, path.parent, cifs="none")
    read = [bridge.from_ase(atoms) for atoms in ase.io.read(path, ":")]
    found = [each for each in read if min_sites <= each.num_sites <= max_sites][:count]
    if len(found) < count:
        raise SystemExit(
            f"{path} has {len(found)} crystals of such a size, not {count}"
        )
    return found


def distort(crystal: structure.Crystal, seed: int) -> structure.Crystal:
    """The crystal as a noisy start: its cell strained, its sites displaced."""
    rng = np.random.default_rng(seed)
    strain = rng.uniform(-STRAIN, STRAIN, (3, 3))
    lattice = np.asarray(crystal.lattice) @ (np.eye(3) + (strain + strain.T) / 2)
    shift = rng.uniform(-DISPLACEMENT, DISPLACEMENT, (crystal.num_sites, 3))
    frac_coords = crystal.frac_coords + shift @ np.linalg.inv(lattice)
    return structure.Crystal(crystal.atomic_numbers, frac_coords, lattice)
