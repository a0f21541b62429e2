"""Exit with 1 when the guards of an asv result are beyond `floors.json`, or one result is worse than another.

    python -m benchmarks gate                       # the newest stored result, beside the floors
    python -m benchmarks gate COMMIT                # the newest result of that commit, beside the floors
    python -m benchmarks gate COMMIT OLDER [--factor 1.2]

With two results of one machine each benchmark that both have is compared. It is worse where its 99 % confidence
interval begins above the factor times the end of the older one's; a `track_` value is its own interval. Without an
older result, a guard that has no floor and a floor whose guard failed or did not run count as beyond, too.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from asv.results import Results

from hpr.command_line import Parser, UsageError, path

ROOT = Path(__file__).parents[1]
FLOORS = Path(__file__).with_name("floors.json")
RESULTS = ROOT / ".asv" / "results"
# What asv files of a machine's parts, and of a whole machine: its name may be chosen, and its kernel is updated.
HARDWARE = ("cpu", "arch", "num_cpu", "ram")
MACHINE = ("machine", "os", *HARDWARE)


def add_arguments(parser: Parser) -> None:
    """Which results."""
    parser.add_argument(
        "new", nargs="?", help="a result's file, or its commit; default: the newest"
    )
    parser.add_argument("old", nargs="?", help="the result that the first is compared with")
    parser.add_argument("--factor", type=float, help="how many times as slow is too slow (1.2)")
    parser.add_argument("--results", type=path, default=RESULTS, help="asv's results_dir")


def run(arguments: argparse.Namespace) -> int:
    """Compare, print a line per benchmark that is beyond, and return 1 if there is one."""
    factor = 1.2 if arguments.factor is None else arguments.factor
    if arguments.factor is not None and arguments.old is None:
        raise UsageError("--factor: expected with two results")
    if not 1 <= factor < math.inf:
        raise UsageError(f"--factor: expected a number of at least 1, got {factor}")
    try:
        new = find(arguments.results, arguments.new)
        if arguments.old is None:
            beyond = list(beyond_floors(new, json.loads(FLOORS.read_text(encoding="utf-8"))))
        else:
            beyond = list(worse(new, find(arguments.results, arguments.old), factor))
    except ValueError as error:
        raise UsageError(str(error)) from None
    for line in beyond:
        print(f"gate: {line}")
    print(f"gate: {new.commit_hash[:8]}: {len(beyond)} beyond" if beyond else "gate: within")
    return 1 if beyond else 0


def find(folder: Path, name: str | None) -> Results:
    """The result in the file `name`, or the newest of the commit `name`; for None the newest of all.

    Raises:
        ValueError: there is no such result, or it is broken.
    """
    if name is not None and Path(name).is_file():
        path = Path(name)
    else:
        found = [
            path
            for path in folder.glob("*/*.json")
            if path.name != "machine.json" and path.name.startswith((name or "")[:8])
        ]
        if not found:
            raise ValueError(
                f"result: expected one of {name or 'any commit'} in {folder}, got none"
            )
        path = max(found, key=lambda path: path.stat().st_mtime)
    try:
        return Results.load(str(path))
    except Exception as error:
        raise ValueError(f"result: expected asv's JSON in {path}, got {error}") from None


def values(result: Results) -> Iterator[tuple[str, float | None, tuple[float, float]]]:
    """Each benchmark with its parameters, its value (None: failed; NaN: skipped), and the value's interval."""
    for name in sorted(result.get_all_result_keys()):
        parameters = result.get_result_params(name)
        found = result.get_result_value(name, parameters)
        statistics = result.get_result_stats(name, parameters)
        for chosen, value, spread in zip(product(*parameters), found, statistics, strict=True):
            label = f"{name}({', '.join(chosen)})" if chosen else name
            yield label, value, _confidence(value, spread or {})


def _confidence(value: float | None, spread: dict[str, Any]) -> tuple[float, float]:
    centre = math.nan if value is None else float(value)
    low, high = spread.get("ci_99_a"), spread.get("ci_99_b")
    return (centre if low is None else low), (centre if high is None else high)


def beyond_floors(result: Results, floors: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line per guard that is not within its floor."""
    measured = {label: value for label, value, _ in values(result) if ".track_" in label}
    for label in sorted(measured.keys() | floors.keys()):
        value = measured.get(label)
        if label not in floors:
            yield f"{label}: expected a floor in {FLOORS.name}, got none"
        elif value is None:
            yield f"{label}: expected a value, got none: it failed or did not run"
        elif value > floors[label]["at_most"]:
            yield f"{label}: expected at most {floors[label]['at_most']:g}, got {value:.4g}"


def worse(new: Results, old: Results, factor: float) -> Iterator[str]:
    """A line per benchmark that got worse by more than the factor, or fails now.

    Raises:
        ValueError: the results come from two machines.
    """
    for key in MACHINE:
        if new.params.get(key) != old.params.get(key):
            raise ValueError(
                f"results: expected of one machine, got {key} {new.params.get(key)!r} and "
                f"{old.params.get(key)!r}"
            )
    before = {label: (value, interval) for label, value, interval in values(old)}
    for label, value, (low, _) in values(new):
        then, (_, high) = before.get(label, (None, (0.0, 0.0)))
        if then is None:
            continue
        if value is None:
            yield f"{label}: {then:.4g} before, fails now"
        elif low > factor * high:
            yield f"{label}: {then:.4g} before, {value:.4g} now"


if __name__ == "__main__":
    # A gate that compares nothing must not pass.
    raise SystemExit("gate: expected `python -m benchmarks gate`, got `python -m benchmarks.gate`")
