"""The numbers of a score: what is printed and compared, each with its definition."""

import dataclasses

from crystaljax.metrics import compositions, match_rates, numbers, scoring

_UNIT = "in units of (volume per site)^(1/3)"


def describe(score: scoring.Score) -> list[numbers.Number]:
    """Every yardstick: validity, space groups, then matches at each tolerance."""
    return [
        *_describe_generated(score),
        *(
            number
            for column in range(len(score.settings.tolerances))
            for number in _describe_matches(score, column)
        ),
    ]


def _describe_generated(score: scoring.Score) -> list[numbers.Number]:
    total = len(score.generated)
    found = [
        numbers.share(
            "valid distances",
            int(score.checks.valid.sum()),
            total,
            scoring.DISTANCE_RULE,
        )
    ]
    if score.smact is not None:
        count = int(score.valid_compositions.sum())
        found += [
            numbers.share(
                "valid composition", count, total, compositions.describe_rule()
            ),
            numbers.share("valid", int(score.valid.sum()), total, "by both rules"),
        ]
    asked = score.requested_space_groups()
    if score.settings.symprec is not None and asked.any():
        given = score.generated.space_groups is not None
        right = (asked > 0) & (score.checks.space_groups[:, 0] == asked)
        found.append(
            numbers.share(
                "space group",
                int(right.sum()),
                int((asked > 0).sum()),
                f"have, within {score.settings.symprec:g} Å, the space group "
                + ("requested" if given else "found in their reference"),
            )
        )
    return found


def _describe_matches(score: scoring.Score, column: int) -> list[numbers.Number]:
    only = "valid only" if score.smact is not None else "valid distances only"
    found: list[numbers.Number] = []
    ks = [] if score.pairing is None else match_rates.choose_ks(score.pairing.most)
    for k in ks:
        suffix = f"@{k}" if k > 1 else ""
        name = f"match{suffix}" if k > 1 else "match rate"
        which = f"one of the first {k}" if k > 1 else "the first one"
        definition = f"references matched by {which} generated for them"
        names = (name, f"RMSE{suffix}", f"cRMSE{suffix}")
        found += _describe_best(score, (column, k, False, False), names, definition)
        names = (f"{name}, {only}", f"RMSE{suffix}, {only}", f"cRMSE{suffix}, {only}")
        found += _describe_best(score, (column, k, False, True), names, _valid(only))
    anyone = "references matched by any generated crystal of their reduced formula"
    if len(ks) > 1:
        names = ("METRe@1", "METRe@1 RMSE", "METRe@1 cRMSE")
        definition = f"{anyone}, of the first one generated for each reference"
        found += _describe_best(score, (column, 1, True, False), names, definition)
    names = ("METRe", "METRe RMSE", "METRe cRMSE")
    found += _describe_best(score, (column, None, True, False), names, anyone)
    names = (f"METRe, {only}", f"METRe RMSE, {only}", f"METRe cRMSE, {only}")
    found += _describe_best(score, (column, None, True, True), names, _valid(only))
    tolerance = str(score.settings.tolerances[column])
    return [dataclasses.replace(each, tolerance=tolerance) for each in found]


def _valid(only: str) -> str:
    rules = "by both rules" if only == "valid only" else "by their distances"
    return f"the same, of pairs that are both valid {rules}"


def _describe_best(
    score: scoring.Score,
    which: tuple[int, int | None, bool, bool],
    names: tuple[str, str, str],
    definition: str,
) -> list[numbers.Number]:
    """Rate, RMSE and cRMSE of the smallest distances of the references.

    Args:
        score: what was found.
        which: column of the tolerance, k, anyone and valid_only of `Score.best`.
        names: of the three numbers.
        definition: of the rate.
    """
    column, k, anyone, valid_only = which
    stol = score.settings.tolerances[column].stol
    best = score.best(column, k, anyone=anyone, valid_only=valid_only)
    rate = match_rates.summarize(best, stol, score.usable)
    return [
        numbers.share(names[0], rate.num_matched, rate.num_references, definition),
        numbers.Number(
            names[1], rate.rmse, f"mean of their smallest RMS distances, {_UNIT}"
        ),
        numbers.Number(
            names[2],
            rate.crmse,
            f"the same over all references, where a miss counts stol = {stol:g}",
        ),
    ]
