"""Stable, unique, novel (S.U.N.): how many of the generated crystals are discoveries.

All shares are of everything that was generated, unreadable and invalid crystals
included. What the numbers mean depends on the potential, the hull, the known crystals
and the matcher's tolerance: name them beside every number.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

# meV/atom above the hull: on it, and the two limits of "metastable" in the literature
# (MatterGen and LeMat-GenBench count up to 100).
THRESHOLDS = (0, 25, 100)

DEFINITIONS = {
    "generated": "crystals that were generated, unreadable and invalid ones included",
    "valid": "could be read, finite, no overlapping atoms",
    "with_energy": "relaxed, or equal to an earlier one that was, with an energy above "
    "the hull",
    "unique": "valid, and equal to none generated earlier, before or after relaxation",
    "novel": "valid, and equal to no known crystal, before or after relaxation",
    "unique_and_novel": "unique and novel",
    "stable": "at most so many meV/atom above the hull, after relaxation",
    "sun": "stable, unique and novel",
}

# What the counts are relative to, where a record of them says so.
_NAMED = {
    "calculator": "potential",
    "hull": "hull",
    "known": "known crystals",
    "tolerance": "equal within",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Discoveries:
    """One entry per generated crystal.

    Attributes:
        valid: whether anything can be said of it.
        unique: valid, and the first of those that are equal.
        novel: valid, and equal to no known crystal.
        above_hull: eV/atom; NaN where there is none. That of the crystal that it equals
            where it was not relaxed itself.
    """

    valid: Bool[np.ndarray, " crystals"]
    unique: Bool[np.ndarray, " crystals"]
    novel: Bool[np.ndarray, " crystals"]
    above_hull: Float[np.ndarray, " crystals"]

    def counts(self, *, has_hull: bool = True) -> dict[str, Any]:
        """Numbers of crystals as JSON values; see `DEFINITIONS`.

        Args:
            has_hull: whether the energies are above a hull; if not, none is stable and
                none is S.U.N.: both are None.
        """
        found = self.unique & self.novel

        def within(which: np.ndarray) -> dict[str, int] | None:
            if not has_hull:
                return None
            # NaN is within nothing.
            return {
                str(limit): int(np.sum(which & (self.above_hull <= limit / 1000)))
                for limit in THRESHOLDS
            }

        return {
            "generated": len(self.valid),
            "valid": int(self.valid.sum()),
            "with_energy": int(np.isfinite(self.above_hull).sum()),
            "unique": int(self.unique.sum()),
            "novel": int(self.novel.sum()),
            "unique_and_novel": int(found.sum()),
            "stable": within(self.valid),
            "sun": within(found),
        }


def find_discoveries(
    valid: Bool[np.ndarray, " crystals"],
    duplicate_of: Int[np.ndarray, " crystals"],
    known_as: Sequence[str],
    above_hull: Float[np.ndarray, " crystals"],
) -> Discoveries:
    """What a generated crystal is, from comparisons and energies.

    Args:
        valid: whether anything can be said of the crystal.
        duplicate_of: number of the crystal that it equals, -1 for none. That one may
            equal a third; circles are not allowed.
        known_as: id of the known crystal that it equals; "" for none.
        above_hull: eV/atom; NaN where it was not computed.
    """
    novel = np.array([not each for each in known_as], bool)
    energy = np.array(above_hull, float)
    for index in range(len(valid)):
        equal = int(duplicate_of[index])
        while equal >= 0:
            novel[index] &= not known_as[equal]
            if np.isnan(energy[index]):
                energy[index] = above_hull[equal]
            equal = int(duplicate_of[equal])
    return Discoveries(
        valid=valid,
        unique=valid & (duplicate_of < 0),
        novel=valid & novel,
        above_hull=np.where(valid, energy, np.nan),
    )


def format_counts(counts: Mapping[str, Any]) -> list[str]:
    """Counts and shares, and what they are relative to, in lines to print.

    Args:
        counts: from `Discoveries.counts`; calculator, hull, known and tolerance are
            printed too where they are among them.
    """
    total = max(counts["generated"], 1)

    def share(count: int) -> str:
        return f"{count} ({count / total:.1%})"

    shown = {
        name: counts[key]
        for key, name in (
            ("valid", "valid"),
            ("unique", "unique"),
            ("novel", "novel"),
            ("unique_and_novel", "both"),
        )
        if counts[key] is not None
    }
    listed = ", ".join(f"{share(count)} {name}" for name, count in shown.items())
    lines = [f"of {counts['generated']} generated: {listed}"]
    for limit, count in (counts["stable"] or {}).items():
        line = f"  ≤ {limit:>3} meV/atom above the hull: {share(count)} stable"
        if counts["sun"] is not None:
            line += f", {share(counts['sun'][limit])} stable, unique and novel"
        lines.append(line)
    named = [
        f"{name} {counts[key]}"
        for key, name in _NAMED.items()
        if counts.get(key) is not None
    ]
    return [*lines, "  by " + ", ".join(named)] if named else lines
