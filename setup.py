"""What pyproject.toml cannot say: the README as an index shows it, away from the checkout."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup


def description() -> str:
    """README.md without the checkout's pictures, its links to files of the checkout turned into their names."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[[^\]]*\]\((?!https?://)[^)]*\)\n+", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\((?!https?://|#)[^)]*\)", r"\1", text)


setup(long_description=description(), long_description_content_type="text/markdown")
