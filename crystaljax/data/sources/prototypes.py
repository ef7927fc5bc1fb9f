"""Metallic prototypes: packings of 2-8 sites, each in one setting and origin.

Geometries are those of the AFLOW prototype of that Strukturbericht symbol (Mehl et al.,
Comput. Mater. Sci. 136, S1 (2017), doi:10.1016/j.commatsci.2017.01.017), or of an
ordering of the layers of an ideal fcc or bcc crystal (``fcc111-ABC``: layers along
[111]) or of hexagonal omega. A name followed by a formula (``L1_2-ABC2``) has the sites
of the prototype, occupied by three species. All are primitive cells, Niggli-reduced.
"""

import dataclasses
import fractions
import functools
import itertools

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystaljax.crystals import structure


@dataclasses.dataclass(frozen=True, eq=False)
class Prototype:
    """One arrangement of sites, species still open.

    Attributes:
        name: Strukturbericht symbol or description.
        space_group: 1-230.
        letters: species of each site, "A" to "C"; A is the rarest.
        frac_coords: shape (sites, 3).
        lattice: shape (3, 3), rows; in units of its first vector.
    """

    name: str
    space_group: int
    letters: tuple[str, ...]
    frac_coords: np.ndarray
    lattice: np.ndarray

    @property
    def num_letters(self) -> int:
        """Number of species."""
        return len(set(self.letters))


@functools.cache
def equivalent_letter_orders(prototype: Prototype) -> list[tuple[int, ...]]:
    """Permutations of the letters that give the same crystal, the identity included.

    The lattice is compared loosely, since relaxation removes small differences between
    the two forms: A and B of CuTi (B11) differ by 0.1 in c/a only.
    """
    matcher = StructureMatcher(ltol=0.05, stol=0.05, angle_tol=2)
    original = _decorate(prototype, (0, 1, 2))
    orders = itertools.permutations(range(prototype.num_letters))
    return [o for o in orders if matcher.fit(original, _decorate(prototype, o))]


def _decorate(prototype: Prototype, order: tuple[int, ...]) -> Structure:
    species = [("Cu", "Pd", "Au")[order["ABC".index(s)]] for s in prototype.letters]
    return Structure(Lattice(prototype.lattice), species, prototype.frac_coords)


def _parse(table: str) -> tuple[Prototype, ...]:
    prototypes = []
    for block in table.strip().split("\n\n"):
        header, *site_lines = block.strip().splitlines()
        name, space_group, parameters = header.split(" | ")
        sites = [site.split() for site in " ".join(site_lines).split(";")]
        prototypes.append(
            Prototype(
                name=name,
                space_group=int(space_group),
                letters=tuple(site[0] for site in sites),
                frac_coords=np.array(
                    [[float(fractions.Fraction(v)) for v in site[1:]] for site in sites]
                ),
                lattice=structure.lattice_from_parameters(
                    np.array([float(v) for v in parameters.split()])
                ),
            )
        )
    return tuple(prototypes)


# Name | space group | a b c (in units of a), alpha beta gamma (degrees); then the
# sites: letter and fractional coordinates.
PROTOTYPES = _parse("""
L1_0 | 123 | 1 1 1.31071 90 90 90
    A 0 0 0; B 1/2 1/2 1/2

L1_1 | 166 | 1 1 1.69657 72.8597 72.8597 60
    A 0 0 0; B 1/2 1/2 1/2

B2 | 221 | 1 1 1 90 90 90
    A 0 0 0; B 1/2 1/2 1/2

B_h | 187 | 1 1.02464 1.02464 120 90 90
    A 0 0 0; B 1/2 2/3 1/3

B11 | 129 | 1 1 1.90505 90 90 90
    A 0 0 0; A 1/2 1/2 0.70000; B 0 0 0.45000; B 1/2 1/2 1/4

B19 | 51 | 1 1.51064 1.54232 90 90 90
    A 0 0 0; A 0 1/2 3/8; B 1/2 0 1/2; B 1/2 1/2 7/8

B32 | 227 | 1 1 1 60 60 60
    A 0 0 0; A 1/4 1/4 1/4; B 1/2 1/2 1/2; B 3/4 3/4 3/4

NbP | 141 | 1 1 1.22474 114.0948 114.0948 90
    A 0 0 0; A 3/4 1/4 1/2; B 1/2 1/2 0; B 1/4 3/4 1/2

C11_b | 139 | 1 1 1.41337 110.7177 110.7177 90
    A 0 0 0; B 0.33530 0.33530 0.67060; B 0.66470 0.66470 0.32940

MoPt2 | 71 | 1 1.42411 1.73408 114.2441 106.7585 90
    A 0 0 0; B 0.35333 0.35333 0.70666; B 0.64667 0.64667 0.29334

fcc111-ABB | 164 | 1 1 2.44949 90 90 120
    A 0 0 0; B 1/3 2/3 1/3; B 2/3 1/3 2/3

omega | 191 | 1 1.6129 1.6129 120 90 90
    A 0 0 0; B 1/2 1/3 2/3; B 1/2 2/3 1/3

C15 | 227 | 1 1 1 60 60 60
    A 0 0 0; A 3/4 3/4 3/4; B 3/8 3/8 3/8; B 3/8 3/8 7/8; B 3/8 7/8 3/8;
    B 7/8 3/8 3/8

C16 | 140 | 1 1.01108 1.01108 75.8446 60.3617 60.3617
    A 0 0 0; A 1/2 0 0; B 0.09200 1/2 0.81600; B 0.40800 1/2 0.18400;
    B 0.59200 0.81600 1/2; B 0.90800 0.18400 1/2

C54 | 70 | 1 1 1.02575 104.2287 104.2287 119.7198
    A 0 0 0; A 1/4 3/4 1/2; B 0.33650 0.66350 0; B 0.58650 0.41350 1/2;
    B 0.66350 0.33650 0; B 0.91350 0.08650 1/2

B8_2 | 194 | 1 1 1.22527 90 90 120
    A 0 0 0; A 1/3 2/3 1/2; B 0 0 1/2; B 1/3 2/3 0; B 2/3 1/3 1/4; B 2/3 1/3 3/4

VAu2 | 63 | 1 1.0269 1.04088 119.5568 90 90
    A 0 0 0; A 1/2 0.44000 0; B 0 0.33000 0.66000; B 0 0.67000 0.34000;
    B 1/2 0.11000 0.34000; B 1/2 0.77000 0.66000

L1_2 | 221 | 1 1 1 90 90 90
    A 0 0 0; B 0 1/2 1/2; B 1/2 0 1/2; B 1/2 1/2 0

D0_22 | 139 | 1 1 1.31923 112.2723 112.2723 90
    A 0 0 0; B 1/2 1/2 0; B 1/4 3/4 1/2; B 3/4 1/4 1/2

L1_3 | 65 | 1 1.70425 1.70425 107.0476 90 90
    A 0 0 0; B 0 1/2 1/2; B 1/2 0 1/2; B 1/2 1/2 0

D0_3 | 225 | 1 1 1 60 60 60
    A 0 0 0; B 1/2 1/2 1/2; B 1/4 1/4 1/4; B 3/4 3/4 3/4

D0_19 | 194 | 1 1.24676 1.24676 120 90 90
    A 0 0 0; A 1/2 1/3 2/3; B 0 0.50587 0.01173; B 0 0.50587 0.49413;
    B 0 0.98827 0.49413; B 1/2 0.34507 0.17253; B 1/2 0.82747 0.17253;
    B 1/2 0.82747 0.65493

D0_23 | 139 | 1 1 2.27351 102.7046 102.7046 90
    A 0 0 0; A 0.76228 0.76228 0.52456; B 0.13114 0.63114 0.26228;
    B 0.25612 0.25612 0.51224; B 0.38114 0.88114 0.76228; B 0.50616 0.50616 0.01232;
    B 0.63114 0.13114 0.26228; B 0.88114 0.38114 0.76228

D0_a | 59 | 1 1.04233 1.18749 90 90 90
    A 0 0 0; A 1/2 0.34200 1/2; B 0 0.49700 0.24500; B 0 0.49700 0.75500; B 0 1 1/2;
    B 1/2 0.34225 0; B 1/2 0.84500 0.25500; B 1/2 0.84500 0.74500

A15 | 223 | 1 1 1 90 90 90
    A 0 0 0; A 1/2 1/2 1/2; B 0 1/2 1/4; B 0 1/2 3/4; B 1/2 1/4 0; B 1/2 3/4 0;
    B 1/4 0 1/2; B 3/4 0 1/2

D1_a | 87 | 1 1.24013 1.24013 80.6446 66.2226 66.2226
    A 0 0 0; B 1/5 1/5 2/5; B 2/5 2/5 4/5; B 3/5 3/5 1/5; B 4/5 4/5 3/5

fcc111-ABBBB | 166 | 1 1 4.12311 83.0347 83.0347 60
    A 0 0 0; B 1/5 1/5 2/5; B 2/5 2/5 4/5; B 3/5 3/5 1/5; B 4/5 4/5 3/5

fcc001-ABBBB | 139 | 1 1 3.60555 97.9712 97.9712 90
    A 0 0 0; B 1/5 1/5 2/5; B 2/5 2/5 4/5; B 3/5 3/5 1/5; B 4/5 4/5 3/5

D5_13 | 164 | 1 1 1.21409 90 90 120
    A 0 0 0; A 1/3 2/3 0.29800; B 0 0 0.50100; B 1/3 2/3 0.79700; B 2/3 1/3 0.14900

fcc111-ABBBA | 166 | 1 1 4.12311 83.0347 83.0347 60
    A 0 0 0; A 2/5 2/5 4/5; B 1/5 1/5 2/5; B 3/5 3/5 1/5; B 4/5 4/5 3/5

fcc001-ABBBA | 139 | 1 1 3.60555 97.9712 97.9712 90
    A 0 0 0; A 2/5 2/5 4/5; B 1/5 1/5 2/5; B 3/5 3/5 1/5; B 4/5 4/5 3/5

fcc111-ABC | 156 | 1 1 2.44949 90 90 120
    A 0 0 0; B 2/3 1/3 2/3; C 1/3 2/3 1/3

fcc110-ABC | 44 | 1 1.41421 1.73205 114.0948 106.7787 90
    A 0 0 0; B 1/3 1/3 2/3; C 2/3 2/3 1/3

bcc001-ABC | 107 | 1 1 1.65831 107.5484 107.5484 90
    A 0 0 0; B 2/3 2/3 1/3; C 1/3 1/3 2/3

omega-ABC | 187 | 1 1.6129 1.6129 120 90 90
    A 0 0 0; B 1/2 1/3 2/3; C 0 2/3 1/3

Ni2In-ABC | 194 | 1 1 1.22527 90 90 120
    A 0 0 0; A 1/3 2/3 1/2; B 0 0 1/2; B 1/3 2/3 0; C 2/3 1/3 1/4; C 2/3 1/3 3/4

Cu2Sb-ABC | 129 | 1 1 1.52585 90 90 90
    A 0 0 0; A 1/2 1/2 3/5; B 0 1/2 0.30000; B 1/2 0 0.30000; C 0 0 0.57000;
    C 1/2 1/2 0.03000

C49-ABC | 63 | 1 1.01635 2.06883 104.2193 90 90
    A 0 0 0; A 1/2 0.20800 0.41600; B 0 0.66500 0.33000; B 1/2 0.54300 0.08600;
    C 0 0.35400 0.70800; C 1/2 0.85400 0.70800

L2_1 | 225 | 1 1 1 60 60 60
    A 0 0 0; B 1/2 1/2 1/2; C 1/4 1/4 1/4; C 3/4 3/4 3/4

XA | 216 | 1 1 1 60 60 60
    A 0 0 0; B 3/4 3/4 3/4; C 1/2 1/2 1/2; C 1/4 1/4 1/4

L1_2-ABC2 | 123 | 1 1 1 90 90 90
    A 0 0 0; B 1/2 1/2 0; C 0 1/2 1/2; C 1/2 0 1/2

D0_22-ABC2 | 139 | 1 1 1.31923 112.2723 112.2723 90
    A 0 0 0; B 1/2 1/2 0; C 1/4 3/4 1/2; C 3/4 1/4 1/2

L1_3-ABC2 | 65 | 1 1.70425 1.70425 107.0476 90 90
    A 0 0 0; B 0 1/2 1/2; C 1/2 0 1/2; C 1/2 1/2 0

B19-ABC2 | 25 | 1 1.51064 1.54232 90 90 90
    A 0 0 0; B 0 1/2 5/8; C 1/2 0 1/2; C 1/2 1/2 1/8

NbP-ABC2 | 119 | 1 1 1.22474 114.0948 114.0948 90
    A 0 0 0; B 1/4 3/4 1/2; C 1/2 1/2 0; C 3/4 1/4 1/2

fcc111-ACBC | 166 | 1 1 3.31662 81.3293 81.3293 60
    A 0 0 0; B 1/2 1/2 1/2; C 1/4 1/4 1/4; C 3/4 3/4 3/4

fcc111-ABCC | 160 | 1 1 3.31662 81.3293 81.3293 60
    A 0 0 0; B 3/4 3/4 3/4; C 1/2 1/2 1/2; C 1/4 1/4 1/4

fcc001-ABCC | 99 | 1 1 2.82843 90 90 90
    A 0 0 0; B 1/2 1/2 1/4; C 0 0 1/2; C 1/2 1/2 3/4

D0_18-ABC2 | 194 | 1 1 1.76533 90 90 120
    A 0 0 0; A 1/3 2/3 1/2; B 2/3 1/3 0; B 2/3 1/3 1/2; C 0 0 0.33300; C 0 0 0.66700;
    C 1/3 2/3 0.16700; C 1/3 2/3 0.83300

D0_23-ABC2 | 139 | 1 1 2.27351 102.7046 102.7046 90
    A 0 0 0; A 0.76228 0.76228 0.52456; B 0.13114 0.63114 0.26228;
    B 0.63114 0.13114 0.26228; C 0.25612 0.25612 0.51224; C 0.38114 0.88114 0.76228;
    C 0.50616 0.50616 0.01232; C 0.88114 0.38114 0.76228

D0_a-ABC2 | 59 | 1 1.04233 1.18749 90 90 90
    A 0 0 0; A 1/2 0.65750 1/2; B 0 1 1/2; B 1/2 0.65775 0; C 0 0.50275 0.25500;
    C 0 0.50275 0.74500; C 1/2 0.15475 0.24500; C 1/2 0.15475 0.75500

D5_13-AB2C2 | 164 | 1 1 1.21409 90 90 120
    A 0 0 0; B 1/3 2/3 0.85100; B 2/3 1/3 0.14900; C 1/3 2/3 0.35200;
    C 2/3 1/3 0.64800

fcc111-ABCCB | 166 | 1 1 4.12311 83.0347 83.0347 60
    A 0 0 0; B 1/5 1/5 2/5; B 4/5 4/5 3/5; C 2/5 2/5 4/5; C 3/5 3/5 1/5

fcc001-ABCCB | 139 | 1 1 3.60555 97.9712 97.9712 90
    A 0 0 0; B 1/5 1/5 2/5; B 4/5 4/5 3/5; C 2/5 2/5 4/5; C 3/5 3/5 1/5

fcc111-ABCCC | 160 | 1 1 4.12311 83.0347 83.0347 60
    A 0 0 0; B 3/5 3/5 1/5; C 1/5 1/5 2/5; C 2/5 2/5 4/5; C 4/5 4/5 3/5

fcc111-ACBCC | 160 | 1 1 4.12311 83.0347 83.0347 60
    A 0 0 0; B 1/5 1/5 2/5; C 2/5 2/5 4/5; C 3/5 3/5 1/5; C 4/5 4/5 3/5

fcc001-ABCCC | 107 | 1 1 3.60555 97.9712 97.9712 90
    A 0 0 0; B 3/5 3/5 1/5; C 1/5 1/5 2/5; C 2/5 2/5 4/5; C 4/5 4/5 3/5

C15_b | 216 | 1 1 1 60 60 60
    A 0 0 0; B 3/4 3/4 3/4; C 3/8 3/8 3/8; C 3/8 3/8 7/8; C 3/8 7/8 3/8;
    C 7/8 3/8 3/8

fcc111-ACCBCC | 164 | 1 1 4.89898 90 90 120
    A 0 0 0; B 0 0 1/2; C 1/3 2/3 1/6; C 1/3 2/3 2/3; C 2/3 1/3 1/3; C 2/3 1/3 5/6

fcc001-ACCBCC | 123 | 1 1 4.24264 90 90 90
    A 0 0 0; B 1/2 1/2 1/2; C 0 0 1/3; C 0 0 2/3; C 1/2 1/2 1/6; C 1/2 1/2 5/6

D2_d-AB2C3 | 191 | 1 1.29213 1.29213 120 90 90
    A 0 0 0; B 0 1/3 2/3; B 0 2/3 1/3; C 1/2 0 1/2; C 1/2 1/2 0; C 1/2 1/2 1/2

fcc111-ABCCCB | 164 | 1 1 4.89898 90 90 120
    A 0 0 0; B 1/3 2/3 1/6; B 2/3 1/3 5/6; C 0 0 1/2; C 1/3 2/3 2/3; C 2/3 1/3 1/3

fcc111-ACBCBC | 164 | 1 1 4.89898 90 90 120
    A 0 0 0; B 1/3 2/3 2/3; B 2/3 1/3 1/3; C 0 0 1/2; C 1/3 2/3 1/6; C 2/3 1/3 5/6

fcc001-ABCCCB | 123 | 1 1 4.24264 90 90 90
    A 0 0 0; B 1/2 1/2 1/6; B 1/2 1/2 5/6; C 0 0 1/3; C 0 0 2/3; C 1/2 1/2 1/2
""")
