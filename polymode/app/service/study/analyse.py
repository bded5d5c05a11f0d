"""What a study found: ranking with intervals, who was preferred to whom, how far raters agree, and who was left out.

A rater who misses an attention check is left out: in a pair, the noise was chosen or called equal to the real data; in
an opinion study, the noise was not rated below the real data of the checks, on average.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from polymode.app.service.study.export import whole
from polymode.core.errors import PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

#: answers, checks not counted, below which nothing is analysed
LEAST_ANSWERS = 10
Rows = list[dict[str, Any]]


def analyse(path: str, *, keep_failed: bool = False) -> dict[str, Any]:
    """The analysis of a study's file, or of its exported .json.

    Args:
        keep_failed: keep raters who missed an attention check.

    Raises:
        PolymodeError: no study, or too few answers.
    """
    study = whole(path)
    failed = missed_checks(study["answers"])
    dropped = {} if keep_failed else failed
    answers = [a for a in study["answers"] if not a["check"] and a["code"] not in dropped]
    names = [item["name"] for item in study["items"] if item["kind"] != "check"]
    _enough(answers, names, len(dropped))
    kind = study["study"]["design"]["kind"]
    found = _pairs(answers, names) if kind == "pairs" else _opinion(answers, names)
    seconds = [a["seconds"] if a["seconds"] is not None else a["seconds_server"] for a in answers]
    told = [s for s in seconds if s is not None]
    unfinished = sum(r["finished"] is None for r in study["raters"])
    notes = [*study["study"]["notes"], *found.pop("notes")]
    if unfinished:
        notes.append(f"{unfinished} of {len(study['raters'])} raters have not finished; what they answered counts")
    if not any(a["check"] for a in study["answers"]):
        notes.append("the study has no attention checks, so no rater could be left out")
    return {
        "study": study["study"]["id"], "design": kind, "question": study["study"]["question"], "answers": len(answers),
        "raters": len({a["code"] for a in answers}), "seconds": round(median(told), 2) if told else None,
        "missed_checks": failed, "left_out": sorted(dropped), **found, "notes": notes,
    }  # fmt: skip


def missed_checks(answers: Rows) -> dict[str, str]:
    """What went wrong for each rater, by code, who missed a check."""
    wrong, ratings = Counter(), defaultdict(lambda: defaultdict(list))
    asked: Counter[str] = Counter()
    for a in answers:
        if not a["check"]:
            continue
        if a["second"] is None:
            ratings[a["code"]][a["first"]].append(int(a["choice"]))
        else:
            asked[a["code"]] += 1
            wrong[a["code"]] += a["chosen"] != "check: real data"
    missed = {code: f"{n} of {asked[code]} checks missed" for code, n in wrong.items() if n}
    for code, of in ratings.items():
        real, noise = (of.get(name, []) for name in ("check: real data", "check: noise"))
        if real and noise and sum(noise) / len(noise) >= sum(real) / len(real):
            missed[code] = "noise was not rated below real data"
    return missed


def _enough(answers: Rows, names: list[str], dropped: int) -> None:
    out = f" ({dropped} raters who missed a check left out)" if dropped else ""
    if len(answers) < LEAST_ANSWERS:
        raise PolymodeError(
            f"{len(answers)} answers{out} are too few to analyse, expected {LEAST_ANSWERS}; collect more"
        )
    seen = Counter(name for a in answers for name in (a["first"], a["second"]))
    if unseen := [name for name in names if not seen[name]]:
        raise PolymodeError(f"nobody has judged {', '.join(unseen)} yet{out}; collect more answers")


def _pairs(answers: Rows, names: list[str]) -> dict[str, Any]:
    """Strengths, shares of wins, agreement."""
    import torch

    from polymode.evaluate.human.judgement import bradley_terry, win_shares
    from polymode.evaluate.statistics import share_interval

    at = {name: i for i, name in enumerate(names)}
    who = {code: r for r, code in enumerate(dict.fromkeys(a["code"] for a in answers))}
    wins = torch.zeros(len(who), len(names), len(names), dtype=torch.float64)
    sides: Counter[str] = Counter()
    for a in answers:
        i, j, r = at[a["first"]], at[a["second"]], who[a["code"]]
        left = {"left": 1.0, "right": 0.0, "tie": 0.5}[a["choice"]]
        wins[r, i, j] += left
        wins[r, j, i] += 1 - left
        sides[a["choice"]] += 1
    fit, (share, low, high) = bradley_terry(wins), win_shares(wins)
    total = wins.sum(0)
    items = []
    for i, name in enumerate(names):
        n = float((total[i] + total[:, i]).sum())
        won = share_interval(float(total[i].sum()), n)
        items.append({
            "name": name, "strength": float(fit.value[i]), "low": float(fit.low[i]), "high": float(fit.high[i]),
            "share": won[0], "share_low": won[1], "share_high": won[2], "n": int(n),
        })  # fmt: skip
    items.sort(key=lambda item: -item["strength"])
    order = [at[item["name"]] for item in items]
    matrix = [
        {
            "item": names[i],
            "against": {
                names[j]: {"share": float(share[i, j]), "low": float(low[i, j]), "high": float(high[i, j]),
                           "n": int(total[i, j] + total[j, i])}
                for j in order if j != i and not math.isnan(float(share[i, j]))
            },
        }
        for i in order
    ]  # fmt: skip
    # a choice is told by the item, not by the side: -1 for the first by name, 1 for the second, 0 for a tie
    agreement = _agreement(answers, lambda a: _toward(a, at), ("nominal", "ordinal"))
    lefts = share_interval(sides["left"], max(1, sides["left"] + sides["right"]))
    return {
        "items": items, "matrix": matrix, "interval": fit.interval, "prior": fit.prior,
        "ties": sides["tie"], "left_side": {"share": lefts[0], "low": lefts[1], "high": lefts[2]},
        "agreement": agreement, "notes": [fit.note] if fit.note else [],
    }  # fmt: skip


def _toward(a: dict[str, Any], at: dict[str, int]) -> float:
    side = {"left": -1.0, "right": 1.0, "tie": 0.0}[a["choice"]]
    return side if at[a["first"]] < at[a["second"]] else -side


def _opinion(answers: Rows, names: list[str]) -> dict[str, Any]:
    """Mean opinion scores, agreement."""
    import torch

    from polymode.evaluate.human.judgement import mean_opinion

    who = {code: r for r, code in enumerate(dict.fromkeys(a["code"] for a in answers))}
    items = []
    for name in names:
        of = [a for a in answers if a["first"] == name]
        ratings = torch.tensor([float(a["choice"]) for a in of], dtype=torch.float64)
        mean, low, high = mean_opinion(ratings, torch.tensor([who[a["code"]] for a in of]))
        items.append({"name": name, "score": mean, "low": low, "high": high, "n": len(of)})
    items.sort(key=lambda item: -item["score"])
    notes = ["one rater: no interval speaks of others"] if len(who) == 1 else []
    agreement = _agreement(answers, lambda a: float(a["choice"]), ("nominal", "ordinal", "interval"))
    return {
        "items": items, "interval": f"{len(who)} raters as clusters", "agreement": agreement, "notes": notes
    }  # fmt: skip


def _agreement(
    answers: Rows, value: Callable[[dict[str, Any]], float], levels: tuple[Any, ...]
) -> list[dict[str, Any]]:
    """Fleiss' kappa and Krippendorff's alpha over units, each with an interval or the sentence why not."""
    from functools import partial

    from polymode.evaluate.human.agreement import alpha, kappa, with_interval

    ratings = _matrix(answers, value)
    found = []
    named = [
        ("Fleiss' kappa", kappa),
        *((f"Krippendorff's alpha, {level}", partial(alpha, level=level)) for level in levels),
    ]
    for name, statistic in named:
        try:
            v, low, high = with_interval(statistic, ratings)
        except PolymodeError as error:
            found.append({"name": name, "value": None, "low": None, "high": None, "refusal": str(error)})
            continue
        found.append({"name": name, "value": v, "low": low, "high": high, "refusal": ""})
    return found


def _matrix(answers: Rows, value: Callable[[dict[str, Any]], float]) -> Tensor:
    """(raters, units) with nan where a rater did not judge a unit; the last answer counts where there are two."""
    import torch

    who = {code: r for r, code in enumerate(dict.fromkeys(a["code"] for a in answers))}
    units = {u: k for k, u in enumerate(sorted({a["unit"] for a in answers}))}
    ratings = torch.full((len(who), len(units)), math.nan, dtype=torch.float64)
    for a in answers:
        ratings[who[a["code"]], units[a["unit"]]] = value(a)
    return ratings
