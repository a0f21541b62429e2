"""The paper's figures: the runs, the claims and the pictures; `definitions` has a module per family of figures."""

from hpr.figures.discovery import discover
from hpr.figures.figure import Figure
from hpr.figures.panel import Panel, PanelBuilder
from hpr.figures.settings import Settings

__all__ = ["Figure", "Panel", "PanelBuilder", "Settings", "discover"]
