"""Comparisons with other libraries: each module `*_table.py` is a command that prints one Markdown table."""
