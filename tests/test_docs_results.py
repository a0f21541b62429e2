"""The tables and counts on the pages of docs/results are the gallery's, and each page shows its picture."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
FIGURES = [str(number) for number in range(1, 20)]
WORDS = ("agrees", "disagrees", "inconclusive")
VERDICT = re.compile(rf"(?:{'|'.join(WORDS)})\b")


@cache
def gallery(figure: str) -> dict[str, Any]:
    """Return what the figure's own commands wrote beside its picture."""
    path = ROOT / "docs" / "gallery" / f"figure_{figure}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def cells(figure: str) -> Iterator[str]:
    """Yield the cells of the tables of a figure's page, without the headings."""
    rows = re.findall(r"^\|(.*)\|$", (RESULTS / f"figure_{figure}.md").read_text("utf-8"), re.M)
    for row in rows[rows.index(next(row for row in rows if set(row) <= {"-", "|"})) + 1 :]:
        yield from (cell.strip() for cell in row.split("|"))


def numbers(text: str) -> list[str]:
    return re.findall(r"-?\d*\.?\d+", text.replace("−", "-"))


def measured(claim: dict[str, Any]) -> list[float]:
    """Return the numbers of a claim that a table may show."""
    means = [group["mean"] for group in claim["groups"] if group["mean"] is not None]
    return means + [test["effect"] for test in claim["statistics"]]


@pytest.mark.parametrize("figure", FIGURES)
def test_tables_are_the_gallery(figure: str) -> None:
    """Each cell's verdict and numbers are those of one claim of its figure, rounded as the cell says."""
    wrong = []
    for cell in cells(figure):
        verdict, colon, rest = cell.partition(":")
        if not colon or not VERDICT.match(cell):
            continue
        if not any(
            claim["verdict"] == verdict.split()[0]
            and all(
                any(rounds_to(value, number) for value in measured(claim))
                for number in numbers(rest)
            )
            for claim in gallery(figure)["claims"]
        ):
            wrong.append(cell)
    assert wrong == []


@pytest.mark.parametrize("figure", FIGURES)
def test_every_claim_has_a_cell(figure: str) -> None:
    """A page's tables hold as many cells of each verdict as its figure has claims of it."""
    found = Counter(verdict[0] for cell in cells(figure) if (verdict := VERDICT.match(cell)))
    assert found == Counter(claim["verdict"] for claim in gallery(figure)["claims"])


@pytest.mark.parametrize("figure", FIGURES)
def test_means_in_tables_are_the_gallery(figure: str) -> None:
    """A cell that is one number shows a mean of the figure's claims."""
    known = [value for claim in gallery(figure)["claims"] for value in measured(claim)]
    shown = [cell for cell in cells(figure) if re.fullmatch(r"[−-]?\d*\.?\d+", cell)]
    wrong = [
        cell for cell in shown if not any(rounds_to(value, numbers(cell)[0]) for value in known)
    ]
    assert wrong == []


@pytest.mark.parametrize("figure", [*FIGURES, "theory"])
def test_pages_show_their_picture(figure: str) -> None:
    """The picture has a text for those who do not see it, and the page has a link to every test."""
    name = f"figure_{figure}"
    text = (RESULTS / ("theory.md" if figure == "theory" else f"{name}.md")).read_text("utf-8")
    picture = re.search(r"!\[([^\]]{40,})\]\(\.\./gallery/(\w+)\.png\)", text)
    assert picture is not None
    assert picture[2] == name
    assert f"(../gallery/{name}.md)" in text


@pytest.mark.parametrize("figure", [*FIGURES, "theory"])
def test_counts_of_claims_are_the_gallery(figure: str) -> None:
    """Pages say `16 claims: 13 agree, none disagrees, 3 are inconclusive`, and the index has the same numbers."""
    verdicts = Counter(gallery(figure)["verdicts"])
    name = "theory.md" if figure == "theory" else f"figure_{figure}.md"
    assert counts((RESULTS / name).read_text("utf-8")) == [verdicts]
    index = (RESULTS / "README.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| \[{figure}\]\({re.escape(name)}\) \|(.*)\|$", index, re.M)
    said = [int(number) for number in row.split("|")[-4:]]
    assert said == [sum(verdicts.values()), *(verdicts[word] for word in WORDS)]


def test_the_readme_counts_figure_1() -> None:
    assert counts((ROOT / "README.md").read_text("utf-8")) == [Counter(gallery("1")["verdicts"])]


def counts(text: str) -> list[Counter[str]]:
    """Return the verdicts of each sentence that counts claims or statements, and check that they add up."""
    found = []
    for total, said in re.findall(r"(\d+) (?:claims|statements)[:,]\s+([^(.;]*)", text):
        said = said.replace("none", "0").replace("all", total)
        verdicts: Counter[str] = Counter()
        for number, word in re.findall(r"(\d+) (?:is |are )?(agree|disagree|inconclusive)", said):
            verdicts[word if word == "inconclusive" else f"{word}s"] = int(number)
        assert sum(verdicts.values()) == int(total), said
        found.append(verdicts)
    return found


def rounds_to(value: float, number: str) -> bool:
    digits = len(number.partition(".")[2])
    return abs(value - float(number)) <= 0.5 * 10.0**-digits * (1 + 1e-9)
