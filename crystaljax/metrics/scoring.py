"""All yardsticks of a set of generated crystals against a set of reference crystals.

Every number comes from four things that are computed once: which pairs match
(`all_pairs`), which crystal was made for which reference (`pairing`), which crystals
are valid, and their space groups. Nothing is dropped: what cannot be read or compared
is a miss where it was generated, and is left out, counted and named, where it is a
reference, since nothing could match it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from crystaljax.crystals import assessment, elements, structure, validity
from crystaljax.matching import all_pairs, matcher
from crystaljax.metrics import compositions, match_rates, pairing
from crystaljax.system import errors

DISTANCE_RULE = (
    f"finite, at least {validity.MIN_VOLUME:g} Å³, no two atoms (images included) "
    f"closer than {validity.MIN_DISTANCE:g} Å"
)
# Those of the literature, and pymatgen's own, which the paper uses.
TOLERANCES = (matcher.TOLERANCES["literature"], matcher.TOLERANCES["paper"])
# Å, that of the space groups of data sets.
SYMPREC = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Crystals:
    """Crystals of one side.

    Attributes:
        names: unique.
        crystals: `structure.NO_CRYSTAL` where one could not be read.
        problems: why it could not; "" if it was.
        space_groups: that were requested, or are known; 0 for none. None: of none.
    """

    names: Sequence[str]
    crystals: Sequence[structure.Crystal]
    problems: Sequence[str]
    space_groups: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def formulas(self) -> list[str]:
        """Reduced formulas; "" for what is no crystal."""
        cell_problems = validity.find_cell_problems(self.crystals)
        return [
            "" if problem else _reduced_formula(each)
            for each, problem in zip(self.crystals, cell_problems, strict=True)
        ]


def _reduced_formula(crystal: structure.Crystal) -> str:
    return elements.reduced_formula(np.asarray(crystal.atomic_numbers, dtype=int))


@dataclasses.dataclass(frozen=True)
class Settings:
    """How crystals are scored.

    Attributes:
        tolerances: of the matcher; all numbers are printed at each.
        symprec: Å, of the space groups; None: they are not looked for.
        num_workers: processes; all CPUs if None.
        show_progress: print progress bars.
    """

    tolerances: tuple[matcher.Tolerance, ...] = TOLERANCES
    symprec: float | None = SYMPREC
    num_workers: int | None = None
    show_progress: bool = False

    def label(self, text: str) -> str | None:
        """Of a progress bar."""
        return text if self.show_progress else None


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """What was found.

    Attributes:
        generated: what was scored.
        references: against what.
        pairing: which was made for which; None if unknown.
        pairs: that match.
        checks: distances and space groups of the generated crystals.
        reference_checks: of the references.
        formulas: reduced formulas of the generated crystals, "" for none.
        reference_formulas: of the references.
        smact: by reduced formula, why it is not valid; None without smact.
        settings: how.
    """

    generated: Crystals
    references: Crystals
    pairing: pairing.Pairing | None
    pairs: all_pairs.PairMatches
    checks: assessment.Validities
    reference_checks: assessment.Validities
    formulas: list[str]
    reference_formulas: list[str]
    smact: dict[str, str] | None
    settings: Settings

    @property
    def usable(self) -> Bool[np.ndarray, " references"]:
        """References that can be compared with something."""
        return np.array([not each for each in self.pairs.reference_problems], bool)

    @property
    def valid_compositions(self) -> Bool[np.ndarray, " generated"]:
        """By SMACT's rule; all that are crystals without smact."""
        return self._valid_compositions(self.formulas)

    @property
    def valid(self) -> Bool[np.ndarray, " generated"]:
        """By both rules; by that of distances only without smact."""
        return self.checks.valid & self.valid_compositions

    @property
    def valid_references(self) -> Bool[np.ndarray, " references"]:
        """By the same rules as the generated crystals."""
        return self.reference_checks.valid & self._valid_compositions(
            self.reference_formulas
        )

    def _valid_compositions(self, formulas: Sequence[str]) -> np.ndarray:
        smact = self.smact or {}
        return np.array([bool(f) and not smact.get(f) for f in formulas], bool)

    @property
    def valid_rule(self) -> str:
        """What valid means here, with versions."""
        if self.smact is None:
            return f"{DISTANCE_RULE}; compositions not checked: smact is not installed"
        return f"{DISTANCE_RULE}; {compositions.describe_rule()}"

    def best(
        self,
        column: int,
        k: int | None = None,
        *,
        anyone: bool = False,
        valid_only: bool = False,
    ) -> Float[np.ndarray, " references"]:
        """Smallest distance of each reference; NaN for no match.

        Args:
            column: of the tolerance.
            k: of the first k that were made for each reference; None: of all.
            anyone: of those of its reduced formula, for whichever reference they were
                made (METRe); or of those that were made for it.
            valid_only: of pairs of which both are valid.

        Raises:
            ValueError: the number depends on the pairing, which is unknown.
        """
        keep = np.ones(len(self.pairs.generated), bool)
        if k is not None or not anyone:
            if self.pairing is None:
                raise errors.UserError(
                    "which crystal was made for which reference is not known; give a "
                    "pairing, or ask for anyone=True"
                )
            most = k if k is not None else max(self.pairing.most, 1)
            keep = match_rates.pairs_at_k(self.pairs, self.pairing, most, anyone=anyone)
        if valid_only:
            keep &= match_rates.pairs_of_valid(
                self.pairs, self.valid, self.valid_references
            )
        return match_rates.best_distances(self.pairs, column, keep)

    def requested_space_groups(self) -> np.ndarray:
        """Of each generated crystal: as given, else its reference's; 0 for none."""
        asked = np.zeros(len(self.generated), int)
        if self.pairing is not None and self.settings.symprec is not None:
            paired = self.pairing.reference >= 0
            found = self.reference_checks.space_groups[:, 0]
            asked[paired] = found[self.pairing.reference[paired]]
        if self.generated.space_groups is not None:
            given = np.asarray(self.generated.space_groups, dtype=int)
            asked = np.where(given > 0, given, asked)
        return asked


def score(
    generated: Crystals,
    references: Crystals,
    pairing: pairing.Pairing | None = None,
    settings: Settings | None = None,
) -> Score:
    """Compares generated crystals with references, and checks both.

    Args:
        generated: crystals of any number, order and formula.
        references: what they are compared with.
        pairing: which was made for which; without it there is METRe only.
        settings: how.
    """
    settings = settings or Settings()
    pairs = all_pairs.match_all(
        generated.crystals,
        references.crystals,
        settings.tolerances,
        num_workers=settings.num_workers,
        description=settings.label("match"),
    )
    symprecs = () if settings.symprec is None else (settings.symprec,)
    checks, reference_checks = (
        assessment.check_many(
            side.crystals,
            symprecs,
            num_workers=settings.num_workers,
            description=settings.label(label),
        )
        for side, label in ((generated, "check"), (references, "check references"))
    )
    formulas, reference_formulas = generated.formulas(), references.formulas()
    smact = None
    if compositions.find_version() is not None:
        smact = compositions.check_compositions(
            {*formulas, *reference_formulas} - {""},
            num_workers=settings.num_workers,
            description=settings.label("check compositions"),
        )
    return Score(
        generated=generated,
        references=references,
        pairing=pairing,
        pairs=pairs,
        checks=checks,
        reference_checks=reference_checks,
        formulas=formulas,
        reference_formulas=reference_formulas,
        smact=smact,
        settings=settings,
    )
