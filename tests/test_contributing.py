"""What contributors are given does what the Makefile does: the hooks before a commit, and the form for bugs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

# asv, of the same extra, requires it.
import yaml

from hpr.reproduce import build_parser

ROOT = Path(__file__).parents[1]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, by programs of the environment."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.M)
    return [line.strip().replace("$(BIN)/", "") for line in lines.splitlines()]


def test_the_hooks_run_what_make_lint_runs() -> None:
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    hooks = local["hooks"]
    assert [hook["entry"] for hook in hooks] == recipe("lint")
    # The environment's own programs, on all files whatever was changed.
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}
    assert all(hook["id"] and hook["name"] for hook in hooks)


def test_the_programs_of_the_hooks_have_one_version() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    for program in {shlex.split(hook["entry"])[0] for hook in hooks}:
        assert len(re.findall(rf"^{program}==\d+(?:\.\d+)+$", pins, re.M)) == 1, program


def test_a_report_of_a_bug_has_the_versions() -> None:
    (form,) = (read(path) for path in FORMS.glob("*.yml"))
    assert {"name", "description", "body"} <= set(form)
    fields = {field["id"]: field for field in form["body"]}
    asked = fields["version"]["attributes"]["description"]
    (command,) = re.findall(r"`python -m (hpr\.\S+) (--\S+)`", asked)
    assert command == ("hpr.reproduce", "--version")
    build_parser().parse_args([command[1]])
    assert all(field["validations"]["required"] for field in fields.values())


def test_the_processes_are_those_of_make_test() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:\w+=\w+ )?python -m pytest .*$", page, re.M)
    made = [line.replace("OPENBLAS_NUM_THREADS=1 ", "") for line in recipe("test")]
    assert listed == made


def test_both_pages_are_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"CONTRIBUTING.md", "docs/adding.md"} <= set(re.findall(r"\]\(([^)]*)\)", text))
