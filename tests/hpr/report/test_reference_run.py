"""A reproduction beside the shipped run of its profile: the same, within its spread, or not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from report_folder import make_folder, parsed

from hpr.report import reference_run, write_report
from hpr.report.folder import read_results
from hpr.report.reference_run import compare, compared, reference, summarised

GALLERY = Path(__file__).parents[3] / "docs" / "gallery"


def finding(
    mean: float, verdict: str = "agrees", n: int = 6, kind: str = "rises"
) -> dict[str, Any]:
    claim = {"panel": "2AF", "measure": "kernel_alignment", "kind": kind, "levels": []}
    return {
        "claim": claim,
        "verdict": verdict,
        "groups": [{"level": "1", "n": n, "mean": mean, "sd": 0.1}],
    }


KEPT = {"verdict": "agrees", "groups": [["1", 6, 0.5, 0.02]]}


def test_the_shipped_reference_is_that_of_the_gallery() -> None:
    """`python -m hpr.report.reference_run docs/gallery` prints it."""
    found = read_results(GALLERY)
    assert len(found.figures) == 20
    assert reference("paper") == json.loads(json.dumps(summarised(found.figures)))


def test_the_gallery_is_the_same_as_itself() -> None:
    kept = reference("paper")
    assert kept is not None
    counts = compare(read_results(GALLERY).figures, kept)["counts"]
    assert set(counts) == {"same"}


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (finding(0.5), "same"),
        (finding(0.50004), "same"),
        (finding(0.519), "within"),
        (finding(0.521), "differs"),
        # Another verdict, or other runs, are never the same.
        (finding(0.5, verdict="inconclusive"), "within"),
        (finding(0.5, n=5), "within"),
        (finding(9.0, kind="holds"), "same"),
        (finding(0.5, kind="holds", verdict="disagrees"), "differs"),
    ],
)
def test_a_claim_is_compared(ours: dict[str, Any], word: str) -> None:
    assert compared(ours, KEPT).word == word


def test_what_differs_is_told() -> None:
    assert compared(finding(0.6), KEPT).differences == ["0.6 at 1, there 0.5 ± 0.02"]


def test_other_settings_are_not_compared() -> None:
    figures = read_results(GALLERY).figures[:2]
    kept = reference("paper")
    assert kept is not None
    changed = copy.deepcopy(figures)
    changed[0]["settings"]["iterations"] = 10
    rows = compare(changed, kept)["rows"]
    assert rows[0]["obstacle"] == "iterations is 10, in the reference None"
    assert rows[0]["counts"] == {}
    assert rows[1]["obstacle"] == ""
    del kept["figures"]["2"]
    assert compare(changed, kept)["rows"][1]["obstacle"] == "the reference has no such figure"


def test_the_page_shows_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, data = make_folder(tmp_path / "results"), tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(reference_run, "DATA", data)
    without = parsed(write_report(out).read_text("utf-8"))
    assert "ships no reference run of the profile quick" in without.text
    kept = summarised(read_results(out).figures)
    kept["figures"]["18"]["claims"][0]["groups"][0][1:] = [6, 99.0, 0.1]
    (data / "reference_quick.json").write_text(json.dumps(kept), "utf-8")
    page = parsed(write_report(out).read_text("utf-8"))
    (section,) = (node for node in page.all("section") if node.attributes.get("id") == "reference")
    said = "19 claims are the same, 0 are within the reference’s spread, 1 differ."
    assert section.all("caption")[0].text == said
    (differing,) = section.all("li")
    assert "there 99 ± 0.1" in differing.text
    (table,) = (t for t in page.all("table") if t.attributes.get("id") == "claims-table")
    assert [row.all("td")[-1].text for row in table.all("tbody")[0].all("tr")].count("same") == 19
