"""The result of a screening: one entry per crystal, ranks, counts, tables to print."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import assessment, elements, structure
from crystaljax.metrics import stable_unique_novel
from crystaljax.relaxation import ase_relaxation
from crystaljax.screening import columns, saddles

STAGES = ("validity", "duplicates", "relaxation", "energy")

# eV/atom: a known crystal lies that far below a hull of which it is a part.
_ROUNDING = 1e-6

# What differs between crystals rejected for one reason.
_PLACE = re.compile(r"(?:site '[^']*'|.+ in .+\.(?:zip|tar|t?gz|t?bz2|t?xz)): ")
_NAMES = re.compile(r"'[^']*'")
_NUMBERS = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class Screening:
    """One entry per crystal, in the order given.

    Attributes:
        names: of the crystals.
        checks: of the crystals as they were, space groups at `columns.SYMPRECS`.
        relaxed: the relaxed crystals; the crystal as it was if it was rejected before.
        relaxations: what the optimizer did; None if the crystal was not relaxed.
        methods: "ase" or "batched"; "" where it was not relaxed.
        formation_energy: of the relaxed crystals, eV/atom; NaN where there is none.
        above_hull: energy above the hull of the known entries, eV/atom; negative below
            it; NaN where there is none.
        space_groups: of the relaxed crystals at `columns.RELAXED_SYMPRECS`, 0 for none.
        shortest_distance: of the relaxed crystals, Å; NaN where there is none.
        volume_per_atom: of the relaxed crystals, Å³; NaN likewise.
        nearest: id and reduced formula of the known crystal nearest to the relaxed one,
            and how far its distances are; "" and NaN where there is none.
        released: what became of ranked crystals without their symmetry, by index; None
            if that was not asked.
        known_as: id of the known crystal that it equals; "" if it is new.
        duplicate_of: index of the equal crystal that stands for it; -1 if none.
        rejected_stage: one of `STAGES`; "" for the crystals that are ranked.
        rejected_reason: why; "" for the crystals that are ranked.
        energy_model: of all energies.
        element_energies: what formation energies are against, eV/atom, by number.
        has_hull: whether there was one.
        seconds: by stage.
    """

    names: list[str]
    checks: assessment.Validities
    relaxed: list[structure.Crystal]
    relaxations: list[ase_relaxation.Relaxation | None]
    methods: list[str]
    formation_energy: Float[np.ndarray, " crystals"]
    above_hull: Float[np.ndarray, " crystals"]
    space_groups: Int[np.ndarray, "crystals symprecs"]
    shortest_distance: Float[np.ndarray, " crystals"]
    volume_per_atom: Float[np.ndarray, " crystals"]
    nearest: list[tuple[str, str, float]]
    released: dict[int, saddles.Finding] | None
    known_as: list[str]
    duplicate_of: Int[np.ndarray, " crystals"]
    rejected_stage: list[str]
    rejected_reason: list[str]
    energy_model: str
    element_energies: dict[int, float]
    has_hull: bool
    seconds: dict[str, float]

    @property
    def converged(self) -> Bool[np.ndarray, " crystals"]:
        """Whether the relaxation reached its force threshold."""
        return np.array(
            [each is not None and each.converged for each in self.relaxations], bool
        )

    def ranking(self) -> Int[np.ndarray, " ranked"]:
        """Indices of the crystals that were not rejected, best first.

        Best is lowest above the hull; without a hull lowest above the best of the same
        composition.
        """
        indices = np.array(
            [i for i, at in enumerate(self.rejected_stage) if not at], int
        )
        score = self.above_hull
        if not self.has_hull:
            score = self._above_best(indices)
        return indices[np.lexsort((self.formation_energy[indices], score[indices]))]

    def _above_best(self, indices: np.ndarray) -> np.ndarray:
        best: dict[str, float] = collections.defaultdict(lambda: np.inf)
        formulas = {i: _reduced_formula(self.relaxed[i]) for i in indices.tolist()}
        for i, formula in formulas.items():
            best[formula] = min(best[formula], float(self.formation_energy[i]))
        above = np.full(len(self.names), np.nan)
        for i, formula in formulas.items():
            above[i] = self.formation_energy[i] - best[formula]
        return above

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per crystal."""
        ranks = np.zeros(len(self.names), int)
        ranks[order] = np.arange(1, len(order := self.ranking()) + 1)
        checks, discoveries = self.checks, self.discoveries()
        table: dict[str, list[Any]] = {
            columns.VALID: checks.valid.tolist(),
            columns.SHORTEST_DISTANCE: checks.shortest_distance.tolist(),
            columns.SHORTEST_DISTANCE_RATIO: checks.shortest_distance_ratio.tolist(),
            columns.VOLUME_PER_ATOM: checks.volume_per_atom.tolist(),
            **_by_column(columns.GENERATED_SPACE_GROUPS, checks.space_groups.tolist()),
            columns.DUPLICATE_OF: [
                self.names[i] if i >= 0 else "" for i in self.duplicate_of
            ],
            columns.KNOWN_AS: self.known_as,
            **_by_column(
                (
                    columns.NEAREST_KNOWN,
                    columns.NEAREST_KNOWN_FORMULA,
                    columns.NEAREST_KNOWN_DISTANCE,
                ),
                self.nearest,
            ),
            columns.UNIQUE: discoveries.unique.tolist(),
            columns.NOVEL: discoveries.novel.tolist(),
            columns.METHOD: self.methods,
            columns.CONVERGED: self.converged.tolist(),
            columns.STEPS: self._of_relaxations("num_steps", 0),
            columns.MAX_FORCE: self._of_relaxations("max_force", np.nan),
            columns.SECONDS: self._of_relaxations("seconds", np.nan),
            columns.RELAXED_ENERGY: self.formation_energy.tolist(),
            columns.ENERGY_MODEL: [self.energy_model] * len(self.names),
            columns.ABOVE_HULL: self.above_hull.tolist(),
            columns.RELAXED_SHORTEST_DISTANCE: self.shortest_distance.tolist(),
            columns.RELAXED_VOLUME_PER_ATOM: self.volume_per_atom.tolist(),
            **_by_column(columns.RELAXED_SPACE_GROUPS, self.space_groups.tolist()),
            **self._released_columns(),
            columns.REJECTED_STAGE: self.rejected_stage,
            columns.REJECTED_REASON: self.rejected_reason,
            columns.RANK: ranks.tolist(),
        }
        return {str(name): values for name, values in table.items()}

    def _released_columns(self) -> dict[str, list[Any]]:
        if self.released is None:
            return {}
        unknown = saddles.Finding(None, np.nan, 0)
        findings = [self.released.get(i, unknown) for i in range(len(self.names))]
        return {
            columns.IS_SADDLE: [each.is_saddle for each in findings],
            columns.RELEASED_ENERGY_CHANGE: [each.energy_change for each in findings],
            columns.RELEASED_SPACE_GROUP: [each.space_group for each in findings],
        }

    def _of_relaxations(self, name: str, missing: Any) -> list[Any]:
        return [
            missing if each is None else getattr(each, name)
            for each in self.relaxations
        ]

    def discoveries(self) -> stable_unique_novel.Discoveries:
        """Which crystals are unique and novel, and how far above the hull each is."""
        return stable_unique_novel.find_discoveries(
            self.checks.valid, self.duplicate_of, self.known_as, self.above_hull
        )

    def counts(self) -> dict[str, int]:
        """How many crystals there were, and how many were left after each stage."""
        ranking = self.ranking().tolist()
        released = {}
        if self.released is not None:
            found = [each.is_saddle for each in self.released.values()]
            released = {"released": len(found), "saddles": found.count(True)}
        return {
            "inputs": len(self.names),
            "valid": int(self.checks.valid.sum()),
            "distinct": sum(
                at not in ("validity", "duplicates") or method != ""
                for at, method in zip(self.rejected_stage, self.methods, strict=True)
            ),
            "relaxed": sum(
                each is not None and not each.problem for each in self.relaxations
            ),
            "converged": int(self.converged.sum()),
            "ranked": len(ranking),
            "new": sum(not self.known_as[i] for i in ranking),
            "below_hull": int(np.sum(self.above_hull[ranking] < -_ROUNDING)),
            **released,
        }


def _by_column(
    names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> dict[str, list[Any]]:
    """Columns of these names from a row for each crystal."""
    by_name = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: list(each) for name, each in zip(names, by_name, strict=True)}


def summarize(screening: Screening) -> str:
    """Counts by stage and reason, in lines."""
    counts = screening.counts()
    lines = [f"{counts['inputs']} crystals"]
    for stage in STAGES:
        reasons = collections.Counter(
            _kind(reason)
            for at, reason in zip(
                screening.rejected_stage, screening.rejected_reason, strict=True
            )
            if at == stage
        )
        if reasons:
            listed = "; ".join(f"{n} {kind}" for kind, n in reasons.most_common(4))
            others = reasons.total() - sum(n for _, n in reasons.most_common(4))
            listed += f"; {others} others" if others else ""
            lines.append(f"{-reasons.total():>+7} {stage:<12}{listed}")
    below = ""
    if screening.has_hull:
        below = f", {counts['below_hull']} below the hull"
    lines.append(
        f"{counts['ranked']:>7} ranked      {counts['converged']} of the "
        f"{counts['relaxed']} relaxed ones converged; {counts['new']} ranked ones not "
        f"among the known{below}"
    )
    if screening.released is not None:
        lines.append(
            f"{counts['saddles']:>7} saddles     of the {counts['released']} that were "
            "disturbed and relaxed without their symmetry"
        )
    return "\n".join(lines)


def _kind(reason: str) -> str:
    """What crystals rejected for one reason have in common."""
    # Where it is comes before what it is: "site 'OH1': …", "a.cif in b.zip: …".
    text = _PLACE.sub("", reason, count=1)
    text = _NAMES.sub("'…'", text.split("; ")[0].split(": ")[0])
    return _NUMBERS.sub("…", text)


def format_ranking(
    table: Mapping[str, Sequence[Any]], num_top: int = 10, *, has_hull: bool = True
) -> str:
    """The best of a screening, as lines to print.

    Args:
        table: of a screening, see `screening.columns`; what was requested may be
            missing.
        num_top: ranks to show.
        has_hull: whether the energies above the hull mean something.
    """
    rows = sorted(
        (rank, row)
        for row, rank in enumerate(table[columns.RANK])
        if 0 < rank <= num_top
    )
    lines = [
        f"{'rank':>4} {'formula':<14}{'space group':>19}{'energy (eV/atom)':>22}"
        f"{'above hull' if has_hull else '':>13}  known as",
        f"{'':>18}{'requested → relaxed':>20}{'requested → relaxed':>22}"
        f"{'(eV/atom)' if has_hull else '':>13}",
    ]
    for rank, row in rows:
        group, energy = (
            table[key][row] if key in table else None
            for key in (columns.REQUESTED_SPACE_GROUP, columns.REQUESTED_ENERGY)
        )
        energy = "-" if energy is None else f"{energy:.3f}"
        above = f"{table[columns.ABOVE_HULL][row]:.4f}" if has_hull else ""
        lines.append(
            f"{rank:>4} {table[columns.FORMULA][row]:<14}"
            f"{group or '-':>9} → "
            f"{table[columns.RELAXED_SPACE_GROUPS[0]][row]:<7}"
            f"{energy:>12} → {table[columns.RELAXED_ENERGY][row]:<7.3f}"
            f"{above:>12}   {table[columns.KNOWN_AS][row] or 'new'}"
        )
    return "\n".join(lines)


def _reduced_formula(crystal: structure.Crystal) -> str:
    return elements.reduced_formula(np.asarray(crystal.atomic_numbers, dtype=int))
