"""What the package's command lines share: one-line errors, checked arguments, and output in any encoding."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpr.system.extras import install
from hpr.system.paths import expanded
from hpr.system.signals import in_words_of, stop_status


class UsageError(Exception):
    """The request can't be carried out; the message is one line."""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors; characters that an output stream cannot encode are escaped.

    `words` are the arguments that were parsed last.
    """

    words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; also make stdout and stderr escape characters that they cannot encode."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        args = self.words = sys.argv[1:] if args is None else list(args)
        for word in args:
            if word.startswith("--") and word.endswith("=--"):
                # Up to Python 3.12, argparse would store an empty list and not call the option's `type`.
                self.error(f"argument {word[:-3]}: expected one argument, got '--'")
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help or an error as argparse does; up to Python 3.11.6 it raises where the stream is full."""
        with contextlib.suppress(OSError):
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Write `message` to stderr and exit; the status changes if stdout can't be flushed (`_flushed`)."""
        super().exit(self._flushed(status), message)

    def run(self, command: Callable[[], int], leaving: Callable[[int], str] | None = None) -> int:
        """Run `command` and turn its exceptions into one-line errors.

        Args:
            command: what to run.
            leaving: the line for stderr after a signal, by the signal's number; None: a line that names the signal.

        Returns:
            The status that `command` returns, 141 if the reader of the output has closed the pipe, 1 if a file or the
            output can't be written, or 128 plus the number of the signal that stopped it (130 for Ctrl-C). A
            `UsageError` or a missing package exits with 2.
        """
        try:
            return self._flushed(command())
        except UsageError as error:
            self.error(str(error))
        except ModuleNotFoundError as error:
            self.error(f"{error}; install what it needs: {install('repro')}")
        except ImportError as error:
            self.error(str(error))
        except KeyboardInterrupt as error:
            status = stop_status(error)
            line = (
                f"{self.prog}: {in_words_of(status - 128)}"
                if leaving is None
                else leaving(status - 128)
            )
            print(line, file=sys.stderr)
            return status
        except BrokenPipeError:
            return self._flushed(141)
        except OSError as error:
            self._say(f"error: {error}")
            return self._flushed(1)

    def _flushed(self, status: int) -> int:
        """Flush stdout and return `status`, or 141 or 1 if the flush fails."""
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            # Python flushes stdout again at exit, which must not fail a second time.
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
    """The text with each run of white space, line ends included, replaced by one space."""
    return " ".join(text.split())


def integer_between(least: int, most: int) -> Callable[[str], int]:
    """A parser of integers from `least` to `most`, for the `type` of an argument."""

    def number(text: str) -> int:
        digits = len(str(most))
        if not re.fullmatch(rf"\d{{1,{digits}}}", text, re.ASCII) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected an integer from {least} to {most}, got {text!r}"
            )
        return int(text)

    return number


positive = integer_between(1, 9_999_999)


def path(text: str) -> Path:
    """Parse the path of a file or folder and expand `~` and `~user`, for the `type` of an argument."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def server_address(text: str) -> str:
    """Parse the address of a server, for the `type` of an argument."""
    if not re.fullmatch(r"([a-z]+://)?[^\s/]+:\d{1,5}/?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected tcp://HOST:PORT, got {text!r}")
    return text


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 run", "2 runs", "1,000 runs"; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def in_words(seconds: float) -> str:
    """A duration in hours, minutes or seconds, whichever suits it."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
