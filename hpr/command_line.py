"""What the package's command lines share: errors of one line, arguments that are checked, and output to any stream."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hpr.system.paths import expanded


class UsageError(Exception):
    """What was asked for can't be done; the message is one line."""


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line, and with output that no stream refuses."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; from then on what a stream's encoding lacks is printed as an escape."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        args = sys.argv[1:] if args is None else args
        for word in args:
            if word.startswith("--") and word.endswith("=--"):
                # Python's argparse, up to 3.12, takes it for an empty list, past the option's type.
                self.error(f"argument {word[:-3]}: expected one argument, got '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit, after a message on stderr; with another status where what was printed can't be written."""
        super().exit(self._flushed(status), message)

    def run(self, command: Callable[[], int]) -> int:
        """Carry out what the arguments ask for.

        Returns:
            What `command` returns, or 141 when whoever read the output has gone, 1 when a file or the output can't be
            written, in one line.
        """
        try:
            return self._flushed(command())
        except UsageError as error:
            self.error(str(error))
        except BrokenPipeError:
            return self._flushed(141)
        except OSError as error:
            self._say(f"error: {error}")
            return self._flushed(1)

    def _flushed(self, status: int) -> int:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            # What is still to be written, at exit too, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                return 141  # as after `| head`
            if status == 0:
                self._say(f"error: the output can't be written: {error.strerror}")
            return status or 1
        return status

    def _say(self, message: str) -> None:
        print(f"{self.prog}: {one_line(message)}", file=sys.stderr)


def one_line(text: str) -> str:
    """The text with every white space, ends of lines too, made one blank."""
    return " ".join(text.split())


def whole(least: int, most: int) -> Callable[[str], int]:
    """An integer from `least` to `most`, for `type=` of an argument."""

    def number(text: str) -> int:
        digits = len(str(most))
        if not re.fullmatch(rf"\d{{1,{digits}}}", text, re.ASCII) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected an integer from {least} to {most}, got {text!r}"
            )
        return int(text)

    return number


positive = whole(1, 9_999_999)


def path(text: str) -> Path:
    """A file's or folder's path, `~` and `~user` expanded, for `type=` of an argument."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
