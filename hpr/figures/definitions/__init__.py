"""The figures that `hpr.figures.discover` finds: each module defines a family of them in its `FIGURES`."""
