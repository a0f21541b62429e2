"""What the package's command lines share: errors of one line, and arguments that are checked."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line}\n")


def positive(text: str) -> int:
    """A positive integer, for `type=` of an argument."""
    if not re.fullmatch(r"\d{1,7}", text, re.ASCII) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer from 1 to 9999999, got {text!r}")
    return int(text)
