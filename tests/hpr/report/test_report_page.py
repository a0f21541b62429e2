"""The page of a folder of results, read back with an HTML parser: what it holds, needs and survives."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_folder import Node, claims_of, make_folder, parsed, sealed

from hpr.report import write_report
from hpr.report.folder import read_results
from hpr.report.inline_svg import inline_svg

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&{{ 7 * 7 }}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("report") / "results")


@pytest.fixture(scope="module")
def page(folder: Path) -> Node:
    return parsed(write_report(folder).read_text("utf-8"))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def test_the_same_files_give_the_same_page(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    # It holds nothing of the folder's place.
    assert str(folder).encode() not in first


def test_the_page_needs_nothing_else(page: Node) -> None:
    """No element names an address besides the page's own parts and data; the policy would refuse it."""
    addresses = [
        value
        for node in page.walk()
        for name, value in node.attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href")
    ]
    assert addresses
    assert [a for a in addresses if not a.startswith(("#", "data:"))] == []
    (style,) = page.all("style")
    assert not re.search(r"@import|url\(", style.text)
    (policy,) = (m for m in page.all("meta") if m.attributes.get("http-equiv"))
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy.attributes["content"]


def test_every_claim_has_a_row_with_what_was_measured(page: Node, folder: Path) -> None:
    (table,) = (t for t in page.all("table") if t.attributes.get("id") == "claims-table")
    rows = table.all("tbody")[0].all("tr")
    claims = claims_of(folder)
    assert len(rows) == len(claims) == 20
    for row, (figure, finding) in zip(rows, claims, strict=True):
        cells = [cell.text for cell in row.all("th") + row.all("td")]
        assert cells[0] == figure
        assert finding["claim"]["panel"] in cells[1]
        assert finding["claim"]["says"] in cells[2]
        assert finding["verdict"] in cells[3]
        assert row.attributes["data-verdict"] == finding["verdict"]
        for statistic in finding["statistics"]:
            assert f"{statistic['effect']:.3g}".replace("-", "−") in cells[6]
            for end in statistic["interval"] or ():
                assert f"{end:.3g}".replace("-", "−") in cells[6]
        assert cells[7] == str(finding["seeds"])


def test_the_top_counts_the_claims(page: Node, folder: Path) -> None:
    agreeing = sum(finding["verdict"] == "agrees" for _, finding in claims_of(folder))
    (heading,) = page.all("h1")
    assert heading.text == f"{agreeing} of 20 claims agree with the paper"
    facts = {d.all("dt")[0].text: d.all("dd")[0].text for d in page.all("dl")[0].all("div")}
    assert facts["Runs"] == "108: 2 diverged, 106 finished"
    assert facts["Computing time of these runs"] == "2.0 min"
    assert facts["Machine"] == "cpu (x86_64), 2 cores, 1 thread"
    assert facts["Commit"] == "abcdef012345"


def test_headings_are_in_order(page: Node) -> None:
    levels = [int(node.tag[1]) for node in page.walk() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_tables_have_heads_with_scopes_and_captions(page: Node) -> None:
    tables = page.all("table")
    assert len(tables) > 5
    for table in tables:
        assert table.all("caption")
        heads = table.all("th")
        assert all(head.attributes.get("scope") in ("col", "row") for head in heads)
        columns = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            assert len(row.all("th") + row.all("td")) == columns


def test_pictures_have_words_and_names_are_unique(page: Node) -> None:
    pictures = [node for node in page.walk() if node.attributes.get("role") == "img"]
    assert all(len(picture.attributes["aria-label"]) > 20 for picture in pictures)
    shown = [svg for svg in page.all("svg") if "aria-label" not in svg.attributes]
    assert len(shown) == 2
    assert all(svg.attributes["aria-hidden"] == "true" for svg in shown)
    (first, _) = (node for node in page.all("div") if node.attributes.get("class") == "plot")
    assert "Mean kernel alignment: 2AF: " in first.attributes["aria-label"]
    names = [node.attributes["id"] for node in page.walk() if "id" in node.attributes]
    assert len(names) == len(set(names)) > 30
    # Every part of a picture that is used is on the page.
    used = [
        n.attributes["href"][1:] for n in page.walk() if n.attributes.get("href", "")[:1] == "#"
    ]
    assert set(used) <= set(names)


def test_every_run_has_its_learning_curve(page: Node) -> None:
    """108 runs, of which two diverged; each structure has its spectrum too."""
    (curves,) = (node for node in page.all("section") if node.attributes.get("id") == "curves")
    assert len(curves.all("polyline")) == 108
    ends = [path for path in curves.all("path") if path.attributes["class"] == "end"]
    assert len(ends) == 2
    assert len(curves.all("h3")) == 5
    (spectra,) = (node for node in page.all("section") if node.attributes.get("id") == "spectra")
    names = [node.text for node in spectra.all("span")]
    sizes = [(5, 100), (30, 100), (100, 100), *((rank, 300) for rank in (1, 5, 30, 100, 300))]
    assert names == [f"rank {rank}, N = {N}" for rank, N in sizes]
    assert len(spectra.all("polyline")) == len(sizes)


def test_a_curve_of_one_point_is_a_dot(copied: Path) -> None:
    """As of a run of at most 100 iterations; a line of one point would show nothing."""
    for path in (copied / "runs").iterdir():
        record = json.loads(path.read_bytes())
        record["curves"] = {name: values[-1:] for name, values in record["curves"].items()}
        path.write_bytes(sealed(record))
    page = parsed(write_report(copied).read_text("utf-8"))
    (curves,) = (node for node in page.all("section") if node.attributes.get("id") == "curves")
    dots = [path for path in curves.all("path") if path.attributes["class"] == "dot"]
    assert (len(curves.all("polyline")), len(dots)) == (0, 108)


def test_stand_ins_are_named_where_they_are_used(page: Node) -> None:
    (first,) = (node for node in page.all("section") if node.attributes.get("id") == "figure-1")
    assert "Stand-in. MNIST is replaced by a stand-in" in first.text
    (pattern,) = (node for node in page.all("section") if node.attributes.get("id") == "figure-18")
    assert "Stand-in." not in pattern.text
    (table,) = (t for t in page.all("table") if t.attributes.get("id") == "claims-table")
    marked = [row for row in table.all("tr") if "stand-in" in row.text]
    assert len(marked) == 4
    assert all("sMNIST stand-in stand-in" in row.text for row in marked)


def test_diverged_runs_are_listed(page: Node) -> None:
    (lost,) = (node for node in page.all("section") if node.attributes.get("id") == "lost")
    rows = lost.all("tbody")[0].all("tr")
    assert len(rows) == 2
    assert all("diverged after 1,500 iterations" in row.text for row in rows)


def test_hostile_text_becomes_no_markup(copied: Path) -> None:
    """Text of a stranger's in every file: it is shown, and is no element, attribute or script."""
    before = parsed(write_report(copied).read_text("utf-8"))

    def poisoned(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: poisoned(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [poisoned(each, name) for each in value]
        free = ("title", "says", "rule", "notes", "reason", "run", "what", "provenance", "flags")
        return value + HOSTILE if isinstance(value, str) and name in free else value

    for path in [*copied.glob("figure_*.json"), copied / "summary.json"]:
        path.write_text(json.dumps(poisoned(json.loads(path.read_text("utf-8")))), "utf-8")
    for path in (copied / "runs").iterdir():
        record = json.loads(path.read_bytes())
        record["provenance"] |= {"device": HOSTILE, "git": HOSTILE, "versions": {HOSTILE: HOSTILE}}
        path.write_bytes(sealed(record))
    text = write_report(copied).read_text("utf-8")
    after = parsed(text)
    tags = [sum(node.tag == tag for node in after.walk()) for tag in ("script", "img")]
    assert tags == [1, 0]
    assert after.all("script")[0].text == before.all("script")[0].text
    assert not [name for node in after.walk() for name in node.attributes if name.startswith("on")]
    assert text.count("&lt;script&gt;alert(1)") > 50
    assert "{{ 7 * 7 }}" in after.text


@pytest.mark.parametrize(
    ("planted", "gone"),
    [
        ("<script>alert(1)</script>", "alert"),
        ('<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">x</p></foreignObject>', "foreign"),
        ('<g onload="alert(1)"/>', "onload"),
        ('<image href="http://elsewhere.example/a.png"/>', "elsewhere"),
        ('<use xlink:href="http://elsewhere.example/a.svg#b"/>', "elsewhere"),
        ('<rect style="fill: url(http://elsewhere.example/a)"/>', "elsewhere"),
        ("<style>* { display: none }</style>", "display"),
        ("<!-- </svg><script> -->", "script"),
        ('<a href="javascript:alert(1)"><rect/></a>', "javascript"),
        ('<image href="data:image/svg+xml;base64,AA"/>', "svg+xml"),
    ],
)
def test_nothing_in_a_picture_can_act(planted: str, gone: str) -> None:
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">'
        f'<path id="p" d="M 1.23456 2"/><use xlink:href="#p" clip-path="url(#p)"/>{planted}</svg>'
    )
    cleaned = str(inline_svg(picture.encode(), "f-"))
    assert gone not in cleaned
    assert '<path id="f-p" d="M 1.23 2" /><use href="#f-p" clip-path="url(#f-p)" />' in cleaned


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<html/>", b"<svg viewBox='0 0 1 1'/>"])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected an SVG"):
        inline_svg(content, "f-")


def test_damaged_files_are_named_and_the_rest_is_shown(copied: Path) -> None:
    records = sorted((copied / "runs").iterdir())
    records[0].write_bytes(records[0].read_bytes()[:100])
    records[1].write_bytes(
        records[1].read_bytes().replace(b'"iterations": 1500', b'"iterations": 9', 1)
    )
    records[2].unlink()
    (copied / "figure_18.svg").unlink()
    (copied / "figure_1.svg").write_text("<svg", "utf-8")
    (copied / "figure_9.json").write_text('{"schema": 1, "figure": "8"}', "utf-8")
    (copied / "summary.json").unlink()
    page = parsed(write_report(copied).read_text("utf-8"))
    (lost,) = (node for node in page.all("section") if node.attributes.get("id") == "lost")
    named = [node.text for node in lost.all("code")]
    assert sorted(named) == sorted(
        ["figure_9.json", "summary.json", *(f"runs/{path.name}" for path in records[:2])]
    )
    assert "figure_18.svg is missing" in page.text
    assert "figure_1.svg can't be shown: expected an SVG, got no XML" in page.text
    assert "Not complete." in page.text
    (table,) = (t for t in page.all("table") if t.attributes.get("id") == "claims-table")
    assert len(table.all("tbody")[0].all("tr")) == 20


def test_nothing_of_the_folder_is_changed(copied: Path) -> None:
    record = next((copied / "runs").iterdir())
    record.write_bytes(b"{}")
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    path = write_report(copied)
    after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert set(after) == {*before, path}
    assert all(after[each] == before[each] for each in before if each != path)


def test_names_that_are_no_keys_are_not_opened(copied: Path, tmp_path: Path) -> None:
    """A figure's JSON that names another file as a run reads nothing outside the folder of runs."""
    (tmp_path / "secret.json").write_text("{}", "utf-8")
    path = copied / "figure_18.json"
    content = json.loads(path.read_text("utf-8"))
    content["runs"] = ["../../secret", *content["runs"]]
    path.write_text(json.dumps(content), "utf-8")
    assert not [name for name in read_results(copied).unreadable if "secret" in name]


def test_a_folder_without_figures_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^out: expected a folder with figure_\*\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_parser_refuses_what_is_not_closed() -> None:
    """The tests above rest on this parser."""
    assert parsed("<p>x<script>y < z</script></p>").all("script")[0].text == "y < z"
    with pytest.raises(AssertionError):
        parsed("<p><b></p></b>")
    with pytest.raises(AssertionError):
        parsed("<p>")
