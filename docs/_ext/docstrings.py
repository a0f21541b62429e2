"""Docstrings as reStructuredText: the project writes them in plain text with Google's sections."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")
CODE = re.compile(r"`([^`]+)`")
EMPHASIS = re.compile(r"((?<![\w*])\*{1,2}(?=\w)[^*]+(?<=\w)\*{1,2}(?![\w*]))")
DIRECTIVE = re.compile(r"^\.\. auto(?:class|function)::\s*([\w.]+)", re.M)


def documented(folder: Path) -> dict[str, str]:
    """The full names of what the API pages list, by their last part."""
    pages = sorted(folder.glob("*.md"))
    names = [name for page in pages for name in DIRECTIVE.findall(page.read_text("utf-8"))]
    return {name.rpartition(".")[2]: name for name in names}


def entry(code: str, names: dict[str, str]) -> str:
    """The full name of the API's entry that a piece of code names, or of a class's member; empty if it has none."""
    if code in names.values():
        return code
    first, _, member = code.partition(".")
    if first not in names:
        return ""
    if not member:
        return names[first]
    module, _, own = names[first].rpartition(".")
    value = getattr(importlib.import_module(module), own)
    # Fields of a dataclass have no entry of their own.
    is_method = inspect.isroutine(inspect.getattr_static(value, member, None))
    return f"{names[first]}.{member}" if inspect.isclass(value) and is_method else ""


def is_display(paragraph: list[str]) -> bool:
    """Whether a paragraph is an equation or a table, whose spaces and line breaks count."""
    if paragraph[0].lstrip().startswith(("- ", "1. ")):
        return False
    own = len(paragraph[0]) - len(paragraph[0].lstrip())
    deeper = any(len(line) - len(line.lstrip()) > own for line in paragraph[1:])
    return deeper or any(re.search(r"\S {2,}\S", line) for line in paragraph)


def escaped(text: str) -> str:
    """Text in which no character is markup but *emphasis*, and `**kwargs` at the start of an entry for napoleon."""
    start, rest = re.fullmatch(r"(\s*(?:\*{1,2}(?=\w+:))?)(.*)", text).groups()
    parts = EMPHASIS.split(rest)
    # A colon inside a word would make a link of "file:matrix.npy".
    markup = r"([\\*|]|_(?!\w)|(?<=\w):(?=\w))"
    parts[::2] = [re.sub(markup, r"\\\1", part) for part in parts[::2]]
    return start + "".join(parts)


def marked(text: str, names: dict[str, str], own: str) -> str:
    """Plain text as reStructuredText; code in backticks links to its entry where the API pages have one."""
    parts = CODE.split(text)
    for place, part in enumerate(parts):
        if place % 2 == 0:
            parts[place] = "\n".join(map(escaped, part.split("\n")))
            continue
        code = " ".join(part.split())
        full = entry(code, names)
        parts[place] = f":py:obj:`{code} <{full}>`" if full and full != own else f"``{code}``"
        # Markup ends at a space or a punctuation mark alone.
        if place + 1 < len(parts) and re.match(r"\w", parts[place + 1]):
            parts[place] += "\\ "
    return "".join(parts)


def as_rst(lines: list[str], names: dict[str, str], own: str) -> list[str]:
    """The lines of a docstring as reStructuredText with Google's sections, which napoleon reads."""
    found: list[str] = []
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    for paragraph in paragraphs:
        rows = paragraph.split("\n")
        if rows[0].strip() in SECTIONS or not is_display(rows):
            found += [*marked(paragraph, names, own).split("\n"), ""]
        else:
            found += ["::", "", *(f"    {row}" for row in rows), ""]
    return found


def fields_of_runs(cls: type) -> list[str]:
    """A section of the fields of a run or a structure; their meanings are comments in the class."""
    from hpr.connectivity import Connectivity
    from hpr.experiment import RunSpec
    from hpr.sweeps.field_names import fields_of

    if not (dataclasses.is_dataclass(cls) and issubclass(cls, Connectivity | RunSpec)):
        return []
    entries = [f"    {field.name}: {field.meaning}" for field in fields_of(cls)]
    return ["", "Args:", *entries] if entries else []


class Rewriter:
    """The hooks of one build."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.kept: list[str] = []

    def before_napoleon(
        self, app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
    ) -> None:
        """Rewrite the lines of one docstring in place."""
        if what == "class":
            lines += fields_of_runs(obj)
        lines[:] = as_rst(lines, self.names, name)
        self.kept = list(lines)

    def after_napoleon(
        self, app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
    ) -> None:
        """Napoleon takes what is before a colon for a property's type; the signature has the type already."""
        if what == "property":
            lines[:] = self.kept


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    rewriter = Rewriter(documented(Path(app.srcdir) / "api"))
    # Napoleon's own priority is 500.
    app.connect("autodoc-process-docstring", rewriter.before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", rewriter.after_napoleon, priority=900)
    return {"parallel_read_safe": True}
