"""A score as tables, one row per crystal, and an account of what was left out."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystaljax.metrics import match_rates, scoring


def _problems(read: Sequence[str], compared: Sequence[str]) -> list[str]:
    """Why each crystal cannot be read, or else compared; "" for neither."""
    return [first or other for first, other in zip(read, compared, strict=True)]


def generated_table(score: scoring.Score) -> dict[str, list[Any]]:
    """One row per generated crystal."""
    table: dict[str, list[Any]] = {
        "name": list(score.generated.names),
        "reduced_formula": score.formulas,
        "problem": _problems(score.generated.problems, score.pairs.generated_problems),
        "valid_distances": score.checks.valid.tolist(),
        "invalid_because": list(score.checks.reasons),
    }
    if score.smact is not None:
        table["valid_composition"] = score.valid_compositions.tolist()
    own = np.full(len(score.generated), -1)
    if score.pairing is not None:
        own = score.pairing.reference
        table["reference"] = _names(score.references.names, own)
        table["rank"] = score.pairing.rank.tolist()
    if score.settings.symprec is not None:
        table["space_group"] = score.checks.space_groups[:, 0].tolist()
        table["requested_space_group"] = score.requested_space_groups().tolist()
    mine = own[score.pairs.generated] == score.pairs.reference
    for column, tolerance in enumerate(score.settings.tolerances):
        rms = score.pairs.rms[:, column]
        closest = np.full(len(score.generated), np.inf)
        np.fmin.at(closest, score.pairs.generated, rms)
        nearest = np.full(len(score.generated), -1)
        is_best = rms == closest[score.pairs.generated]
        nearest[score.pairs.generated[is_best]] = score.pairs.reference[is_best]
        if score.pairing is not None:
            distance = np.full(len(score.generated), np.nan)
            distance[score.pairs.generated[mine]] = rms[mine]
            table[f"rms_{tolerance}"] = distance.tolist()
        table[f"closest_reference_{tolerance}"] = _names(
            score.references.names, nearest
        )
        table[f"closest_rms_{tolerance}"] = np.where(
            np.isinf(closest), np.nan, closest
        ).tolist()
    return table


def reference_table(score: scoring.Score) -> dict[str, list[Any]]:
    """One row per reference."""
    of_formula = collections.Counter(score.formulas)
    table: dict[str, list[Any]] = {
        "name": list(score.references.names),
        "reduced_formula": score.reference_formulas,
        "problem": _problems(score.references.problems, score.pairs.reference_problems),
        "valid": score.valid_references.tolist(),
        "num_generated_of_formula": [
            of_formula[each] if each else 0 for each in score.reference_formulas
        ],
    }
    if score.settings.symprec is not None:
        groups = score.reference_checks.space_groups[:, 0]
        table["space_group"] = groups.tolist()
    ks: list[int] = []
    if score.pairing is not None:
        paired = collections.Counter(score.pairing.reference.tolist())
        table["num_generated_for_it"] = [
            paired[i] for i in range(len(score.references))
        ]
        ks = match_rates.choose_ks(score.pairing.most)
    for column, tolerance in enumerate(score.settings.tolerances):
        for k in ks:
            table[f"rms@{k}_{tolerance}"] = score.best(column, k).tolist()
        table[f"metre_rms_{tolerance}"] = score.best(column, anyone=True).tolist()
    return table


def accounts(score: scoring.Score) -> dict[str, dict[str, Any]]:
    """What was left out or is a miss for a reason: counts and examples by reason.

    Returns:
        By reason, in words: ``count`` and up to five ``examples`` by name.
    """
    formulas, others = set(score.formulas), set(score.reference_formulas)
    generated, references = score.generated, score.references
    usable = score.usable
    of_reference = score.pairs.reference_problems
    cases = {
        "generated, unreadable": [
            i for i, each in enumerate(generated.problems) if each
        ],
        "generated, cannot be compared": [
            i
            for i, each in enumerate(score.pairs.generated_problems)
            if each and not generated.problems[i]
        ],
        "generated, of a formula that no reference has": [
            i for i, each in enumerate(score.formulas) if each and each not in others
        ],
    }
    if score.pairing is not None:
        cases["generated, for no known reference"] = np.flatnonzero(
            score.pairing.reference < 0
        ).tolist()
    names = {
        reason: [generated.names[i] for i in indices]
        for reason, indices in cases.items()
    }
    cases = {
        "references, unusable and left out": [
            i for i, each in enumerate(of_reference) if each
        ],
        "references, nothing generated of their formula": [
            i
            for i, each in enumerate(score.reference_formulas)
            if usable[i] and each not in formulas
        ],
    }
    if score.pairing is not None:
        made_for = set(score.pairing.reference.tolist())
        cases["references, nothing generated for them"] = [
            i for i in range(len(references)) if usable[i] and i not in made_for
        ]
    names |= {
        reason: [references.names[i] for i in indices]
        for reason, indices in cases.items()
    }
    names["pairs whose comparison failed, no match"] = [
        f"{generated.names[i]} and {references.names[j]}: {message}"
        for i, j, message in score.pairs.failures
    ]
    return {
        reason: {"count": len(each), "examples": each[:5]}
        for reason, each in names.items()
    }


def _names(names: Sequence[str], indices: np.ndarray) -> list[str]:
    known = list(names)
    return [known[i] if i >= 0 else "" for i in indices.tolist()]
