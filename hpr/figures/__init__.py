"""The paper's figures: each module holds a family of them, its runs, its claims and its plot."""

from hpr.figures.figure import Figure, Panel, Settings, discover

__all__ = ["Figure", "Panel", "Settings", "discover"]
