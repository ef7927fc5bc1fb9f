"""The result of a screening: one entry per crystal, ranks, counts, tables to print."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import assessment, elements, structure
from crystaljax.relaxation import ase_relaxation

SYMPRECS = (0.1, 0.01, 0.001)
RELAXED_SYMPRECS = (0.1, 0.01)
STAGES = ("validity", "duplicates", "relaxation", "energy")

# What differs between crystals that fell out for one reason.
_NUMBERS = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class Screening:
    """One entry per crystal, in the order given.

    Attributes:
        names: of the crystals.
        checks: of the crystals as they were, space groups at `SYMPRECS`.
        relaxed: the relaxed crystals; the crystal as it was where it fell out.
        relaxations: what the optimizer did; None where it was not asked.
        methods: "ase" or "batched"; "" where it was not relaxed.
        formation_energy: of the relaxed crystals, eV/atom; NaN where there is none.
        above_hull: energy above the hull of the known entries, eV/atom; negative below
            it; NaN where there is none.
        space_groups: of the relaxed crystals at `RELAXED_SYMPRECS`, 0 for none.
        known_as: id of the known crystal that it equals; "" if it is new.
        duplicate_of: index of the equal crystal that stands for it; -1 if none.
        fell_out_at: of `STAGES`; "" for the crystals that are ranked.
        fell_out: why; "" for the crystals that are ranked.
        energy_model: of all energies.
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
    known_as: list[str]
    duplicate_of: Int[np.ndarray, " crystals"]
    fell_out_at: list[str]
    fell_out: list[str]
    energy_model: str
    has_hull: bool
    seconds: dict[str, float]

    @property
    def converged(self) -> Bool[np.ndarray, " crystals"]:
        """Whether the relaxation reached its force threshold."""
        return np.array(
            [each is not None and each.converged for each in self.relaxations], bool
        )

    def ranking(self) -> Int[np.ndarray, " ranked"]:
        """Indices of the crystals that did not fall out, best first.

        Best is lowest above the hull; without a hull lowest above the best of the same
        composition.
        """
        indices = np.array([i for i, at in enumerate(self.fell_out_at) if not at], int)
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
        return {
            "valid": self.checks.valid.tolist(),
            "shortest_distance": self.checks.shortest_distance.tolist(),
            "shortest_distance_ratio": self.checks.shortest_distance_ratio.tolist(),
            "volume_per_atom": self.checks.volume_per_atom.tolist(),
            **{
                f"space_group_found_{symprec:g}": numbers.tolist()
                for symprec, numbers in zip(
                    SYMPRECS, self.checks.space_groups.T, strict=True
                )
            },
            "duplicate_of": [
                self.names[i] if i >= 0 else "" for i in self.duplicate_of
            ],
            "known_as": self.known_as,
            "relaxation_method": self.methods,
            "relaxation_converged": self.converged.tolist(),
            "relaxation_steps": self._of_relaxations("num_steps", 0),
            "max_force": self._of_relaxations("max_force", np.nan),
            "relaxation_seconds": self._of_relaxations("seconds", np.nan),
            "formation_energy_relaxed": self.formation_energy.tolist(),
            "energy_model_relaxed": [self.energy_model] * len(self.names),
            "energy_above_hull": self.above_hull.tolist(),
            **{
                f"space_group_relaxed_{symprec:g}": numbers.tolist()
                for symprec, numbers in zip(
                    RELAXED_SYMPRECS, self.space_groups.T, strict=True
                )
            },
            "fell_out_at": self.fell_out_at,
            "fell_out": self.fell_out,
            "rank": ranks.tolist(),
        }

    def _of_relaxations(self, name: str, missing: Any) -> list[Any]:
        return [
            missing if each is None else getattr(each, name)
            for each in self.relaxations
        ]

    def counts(self) -> dict[str, int]:
        """How many crystals there were, and how many were left after each stage."""
        ranking = self.ranking().tolist()
        return {
            "inputs": len(self.names),
            "valid": int(self.checks.valid.sum()),
            "distinct": sum(
                at not in ("validity", "duplicates") or method != ""
                for at, method in zip(self.fell_out_at, self.methods, strict=True)
            ),
            "relaxed": sum(
                each is not None and not each.failure for each in self.relaxations
            ),
            "converged": int(self.converged.sum()),
            "ranked": len(ranking),
            "new": sum(not self.known_as[i] for i in ranking),
            "below_hull": int(np.sum(self.above_hull[ranking] < 0)),
        }


def summarize(screening: Screening) -> str:
    """Counts by stage and reason, in lines."""
    counts = screening.counts()
    lines = [f"{counts['inputs']} crystals"]
    for stage in STAGES:
        reasons = collections.Counter(
            _kind(reason)
            for at, reason in zip(
                screening.fell_out_at, screening.fell_out, strict=True
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
    return "\n".join(lines)


def _kind(reason: str) -> str:
    """What crystals that fell out for one reason have in common."""
    return _NUMBERS.sub("…", reason.split(":")[0])


def format_ranking(
    table: Mapping[str, Sequence[Any]], num_top: int = 10, *, has_hull: bool = True
) -> str:
    """The best of a screening, as lines to print.

    Args:
        table: columns of `Screening.table`, and those of the crystals before it:
            ``formula``, and where they were asked for ``space_group`` and
            ``formation_energy``.
        num_top: ranks to show.
        has_hull: whether the energies above the hull mean something.
    """
    rows = sorted(
        (rank, row) for row, rank in enumerate(table["rank"]) if 0 < rank <= num_top
    )
    lines = [
        f"{'rank':>4} {'formula':<14}{'space group':>16}{'energy (eV/atom)':>22}"
        f"{'above hull' if has_hull else '':>13}  known as",
        f"{'':>18}{'asked → found':>17}{'asked → obtained':>22}"
        f"{'(eV/atom)' if has_hull else '':>13}",
    ]
    for rank, row in rows:
        asked = {
            key: table[key][row] if key in table else None
            for key in ("space_group", "formation_energy")
        }
        energy = asked["formation_energy"]
        energy = "-" if energy is None else f"{energy:.3f}"
        above = f"{table['energy_above_hull'][row]:.4f}" if has_hull else ""
        lines.append(
            f"{rank:>4} {table['formula'][row]:<14}"
            f"{asked['space_group'] or '-':>9} → "
            f"{table['space_group_relaxed_0.1'][row]:<4}"
            f"{energy:>12} → {table['formation_energy_relaxed'][row]:<7.3f}"
            f"{above:>12}   {table['known_as'][row] or 'new'}"
        )
    return "\n".join(lines)


def _reduced_formula(crystal: structure.Crystal) -> str:
    return elements.reduced_formula(np.asarray(crystal.atomic_numbers, dtype=int))
