"""Rows of a Markdown table, as every command prints them."""

from __future__ import annotations


def row(*cells: object) -> str:
    """One row."""
    return f"| {' | '.join(map(str, cells))} |"


def heading(*names: str) -> str:
    """The row of the columns' names, and the rule under it."""
    return f"{row(*names)}\n{'|---' * len(names)}|"
