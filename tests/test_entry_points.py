"""Entry points of an installed package: the connectivity and the task of docs/adding.md, as the page names them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_adding import child, outside, snippets


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """A folder in which a distribution is installed that offers the page's connectivity and task."""
    site = tmp_path / "site"
    metadata = site / "lab_parts-1.0.dist-info"
    metadata.mkdir(parents=True)
    outside("A connectivity", site, "ring")
    (code,) = snippets("A task")
    (site / "parity.py").write_text(code[: code.index("\n\nspec = ")], encoding="utf-8")
    tables = "".join(snippets(section, "toml")[0] for section in ("A connectivity", "A task"))
    points = re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", tables).replace('"', "")
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-parts\nVersion: 1.0\n")
    return site


def test_an_installed_package_offers_a_connectivity_and_a_task(
    offered: Path, tmp_path: Path
) -> None:
    """The commands know them, and read their records, without any import of the user's."""
    words = ["--task", "parity", "--connectivity", "ring", "dense", "--set", "width=1,2"]
    small = ["--N", "12", "--iterations", "3", "--trials", "8", "--kernel-trials", "2"]
    done = child(
        ["-m", "hpr.run", *words, *small, "--device", "cpu", "--workers", "1"],
        tmp_path,
        (offered,),
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_bytes()) for path in (tmp_path / "results" / "runs").iterdir()]
    kinds = sorted((r["spec"]["connectivity"]["kind"], r["spec"]["task"]) for r in records)
    assert kinds == [("dense", "parity"), ("ring", "parity"), ("ring", "parity")]
    verify = ["-m", "hpr.store", "verify", "results"]
    assert "3 good, 0 bad" in child(verify, tmp_path, (offered,)).stdout
    # Where the package is not installed, nobody can tell what the kind draws.
    without = child(verify, tmp_path)
    assert "1 good, 2 bad" in without.stdout
    assert "connectivity kind: expected one of" in without.stderr
    unknown = child(["-m", "hpr.run", *words, *small], tmp_path)
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1
