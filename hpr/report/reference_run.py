"""The reference runs that the package ships, and how a reproduction compares with that of its profile.

`python -m hpr.report.reference_run DIR` prints the reference of a folder with `figure_*.json`, which are kept under
`hpr/report/data/reference_<profile>.json`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpr.report.folder import read_results

DATA = Path(__file__).with_name("data")
# Means that differ by at most this share are the same: other machines round sums in other ways.
SAME = 1e-4
# Digits that are kept of means and standard deviations.
DIGITS = 6
# The settings in which a figure must agree with its reference.
SETTINGS = ("profile", "variant", "task_version", "iterations")


@dataclass(frozen=True)
class Compared:
    """One claim beside the reference's: "same", "within" or "differs", the reference's verdict, and what differs."""

    word: str
    verdict: str
    differences: list[str]


def reference(profile: str) -> dict[str, Any] | None:
    """The reference run of a profile, or None where the package ships none."""
    path = DATA / f"reference_{profile}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def summarised(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a reference holds of the JSON of figures: settings, verdicts, and the mean and s.d. of each level."""
    return {
        "schema": 1,
        "figures": {
            figure["figure"]: {
                "settings": {name: figure["settings"][name] for name in (*SETTINGS, "seeds")},
                "claims": [
                    {
                        "claim": list(claim_key(finding["claim"])),
                        "verdict": finding["verdict"],
                        "groups": [
                            [
                                group["level"],
                                group["n"],
                                *map(_rounded, (group["mean"], group["sd"])),
                            ]
                            for group in finding["groups"]
                        ],
                    }
                    for finding in figure["claims"]
                ],
            }
            for figure in figures
        },
    }


def claim_key(claim: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What names a claim within its figure: panel, measure, kind and levels."""
    levels = ", ".join(claim.get("levels") or ())
    return claim["panel"], claim["measure"], claim["kind"], levels


def obstacle_to_comparison(figure: Mapping[str, Any], kept: Mapping[str, Any] | None) -> str:
    """Why a figure cannot be compared with its reference `kept`; empty where it can."""
    if kept is None:
        return "the reference has no such figure"
    ours, theirs = figure["settings"], kept["settings"]
    differing = [
        f"{name} is {ours[name]}, in the reference {theirs[name]}"
        for name in SETTINGS
        if ours[name] != theirs[name]
    ]
    return "; ".join(differing)


def compared(finding: Mapping[str, Any], kept: Mapping[str, Any]) -> Compared:
    """Compare a claim's finding with the reference's finding of the same claim.

    It is the same where the verdict is, and every mean is, up to rounding. It is within the reference's spread where
    every mean is within one standard deviation of the reference's runs. A check of the theory, whose values are
    rounding errors, is compared by its verdict alone.
    """
    verdict = kept["verdict"]
    if finding["claim"]["kind"] == "holds":
        return Compared("same" if finding["verdict"] == verdict else "differs", verdict, [])
    theirs = {level: (n, mean, sd) for level, n, mean, sd in kept["groups"]}
    words, differences = [], []
    for group in finding["groups"]:
        n, mean, sd = theirs.get(group["level"], (0, None, None))
        if mean is None or group["mean"] is None:
            word = "same" if mean is group["mean"] else "differs"
        else:
            distance = abs(group["mean"] - mean)
            near = distance <= SAME * max(abs(mean), abs(group["mean"]))
            word = "same" if near else "within" if distance <= (sd or 0.0) else "differs"
        if word == "differs":
            differences.append(
                f"{_written(group['mean'])} at {group['level']}, there {_written(mean, sd)}"
            )
        # Other runs than the reference's took part in the mean.
        words.append("within" if word == "same" and n != group["n"] else word)
    if finding["verdict"] != verdict:
        words.append("within")
    worst = next(word for word in ("differs", "within", "same") if word in [*words, "same"])
    return Compared(worst, verdict, differences)


def compare(figures: Sequence[Mapping[str, Any]], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Compare figures with a reference.

    Returns:
        "rows": one per figure, with the counts of its claims by word and why it is not compared; "claims": by figure
        and key of the claim, the `Compared`; "counts": the counts of all claims.
    """
    rows, claims, counts = [], {}, Counter[str]()
    for figure in figures:
        name = figure["figure"]
        known = kept["figures"].get(name)
        obstacle = obstacle_to_comparison(figure, known)
        of_figure: Counter[str] = Counter()
        if not obstacle:
            theirs = {tuple(each["claim"]): each for each in known["claims"]}
            for finding in figure["claims"]:
                key = claim_key(finding["claim"])
                if key in theirs:
                    claims[name, key] = found = compared(finding, theirs[key])
                    of_figure[found.word] += 1
                else:
                    of_figure["alone"] += 1
        counts += of_figure
        rows.append({"figure": name, "obstacle": obstacle, "counts": of_figure})
    return {"rows": rows, "claims": claims, "counts": counts}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _written(mean: float | None, sd: float | None = None) -> str:
    if mean is None:
        return "none"
    return f"{mean:.4g}" + (f" ± {sd:.2g}" if sd else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the reference of the folder that is the only argument."""
    (out,) = sys.argv[1:] if argv is None else argv
    kept = summarised(read_results(Path(out)).figures)
    print(json.dumps(kept, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
