"""`python -m hpr.store`: check, merge and tidy up folders of finished runs, and write them as one table."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hpr.command_line import Parser, UsageError, counted, path
from hpr.experiment.inventory import Bad, each_kept, is_finished, kept_key
from hpr.experiment.leftovers import Leftover, leftovers
from hpr.experiment.merging import merge
from hpr.experiment.run_claims import Claims
from hpr.experiment.table import columns_of, write_csv, write_parquet
from hpr.fields import shown

# Lines that a conflict is shown in at most.
MOST_LINES = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when all is well, 1 when a record is bad or records conflict, 130 when interrupted. Bad usage exits with 2.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return parser.run(lambda: arguments.command(arguments))


def build_parser() -> Parser:
    """Return the parser of the command line's arguments."""
    parser = Parser(
        prog="hpr.store",
        description="Check, merge, export and tidy up results folders, whose runs/ has a file per finished run.",
        epilog="Exit status: 0 all is well, 1 a record is bad or records conflict or the output can't be written, "
        "2 bad usage, 130 interrupted, 141 the output's reader has gone.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    check = command("verify", "check every record against its name, schema, checksum and run")
    check.add_argument("folder", type=path, metavar="DIR", help="a results folder")
    check.set_defaults(command=_verify)
    joined = command(
        "merge", "copy the records of several folders into one; nothing is overwritten"
    )
    joined.add_argument("folders", type=path, nargs="+", metavar="DIR", help="results folders")
    joined.add_argument("--into", type=path, required=True, metavar="DIR", help="the target")
    joined.set_defaults(command=_merge)
    table = command("export", "write one table with a row per run")
    table.add_argument("folder", type=path, metavar="DIR", help="a results folder")
    form = table.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", type=path, metavar="FILE", help="as CSV")
    form.add_argument("--parquet", type=path, metavar="FILE", help="as Parquet; needs pyarrow")
    table.set_defaults(command=_export)
    tidy = command("gc", "remove what no run needs any more")
    tidy.add_argument("folder", type=path, metavar="DIR", help="a results folder")
    tidy.add_argument("--dry-run", action="store_true", help="say what would be removed")
    tidy.add_argument(
        "--corrupt", action="store_true", help="damaged records that were set aside too"
    )
    tidy.set_defaults(command=_gc)
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    out = _results_folder(arguments.folder)
    bad: list[Bad] = []
    keys = {key for _, key in each_kept(out, kept_key, bad.append)}
    for found in bad:
        _tell(found)
    count = len(keys) + len(bad)
    print(f"{counted(count, 'record')} in {out / 'runs'}: {len(keys)} good, {len(bad)} bad")
    kinds: dict[str, list[Leftover]] = {}
    for leftover in leftovers(out, keys.__contains__):
        kinds.setdefault(leftover.what, []).append(leftover)
    for what, of_kind in kinds.items():
        print(f"{len(of_kind)} x {what}, the first is {_name(of_kind[0].path)}")
    conflicts = out / "conflicts"
    if conflicts.is_dir():
        print(
            f"{counted(len(list(conflicts.glob('*.json'))), 'record')} in {conflicts} that a merge found to differ"
        )
    return 1 if bad else 0


def _merge(arguments: argparse.Namespace) -> int:
    into: Path = arguments.into
    if into.exists() and not into.is_dir():
        raise UsageError(f"--into: expected a folder, got the file {into}")
    sources = [_results_folder(folder) for folder in arguments.folders]
    for source in sources:
        if into.exists() and source.samefile(into):
            raise UsageError(f"--into: expected another folder than those to merge, got {into}")
    fates: Counter[str] = Counter()
    for merged in merge(sources, into):
        fates[merged.fate] += 1
        if merged.fate == "bad":
            _tell(Bad(merged.path, merged.lines[0]))
        elif merged.fate == "conflict":
            first, *lines = merged.lines
            print(f"conflict: {_name(merged.path)}: {first}; differs from the one there in")
            for line in lines[:MOST_LINES]:
                print(f"  {line}")
            if len(lines) > MOST_LINES:
                print(f"  and {len(lines) - MOST_LINES} more")
    print(
        f"{counted(fates.total(), 'record')}: {fates['copied']} copied, {fates['there already']} there already, "
        f"{counted(fates['conflict'], 'conflict')}, {fates['bad']} bad"
    )
    return 1 if fates["conflict"] or fates["bad"] else 0


def _export(arguments: argparse.Namespace) -> int:
    file: Path = arguments.csv or arguments.parquet
    if file.is_dir():
        option = "--csv" if arguments.csv else "--parquet"
        raise UsageError(f"{option}: expected a file, got the folder {file}")
    bad: list[Bad] = []
    try:
        columns = columns_of(_results_folder(arguments.folder), bad.append)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for found in bad:
        _tell(found)
    (write_csv if arguments.csv else write_parquet)(columns, file)
    left_out = f"; {len(bad)} bad ones left out" if bad else ""
    print(
        f"{counted(len(columns['key']), 'run')} in {len(columns)} columns written to {file}{left_out}"
    )
    return 1 if bad else 0


def _gc(arguments: argparse.Namespace) -> int:
    out = _results_folder(arguments.folder)
    verb, count, aside = "would remove" if arguments.dry_run else "removed", 0, 0
    claims = Claims(out / "claims")
    for leftover in leftovers(out, is_finished(out)):
        if leftover.what.startswith("damaged") and not arguments.corrupt:
            aside += 1
            continue
        if not arguments.dry_run:
            if leftover.claim is not None:
                claims.clear(leftover.path, leftover.claim)
            else:
                leftover.path.unlink(missing_ok=True)
        count += 1
        print(f"{verb} {_name(leftover.path)}: {leftover.what}")
    if not arguments.dry_run:
        claims.close()
    kept = f"; --corrupt removes the damaged records too: {aside}" if aside else ""
    print(f"{verb} in all: {count}{kept}")
    return 0


def _results_folder(folder: Path) -> Path:
    """The folder, if it has records."""
    if not (folder / "runs").is_dir():
        raise UsageError(f"DIR: expected a results folder, with a folder runs in it, got {folder}")
    return folder


def _tell(found: Bad) -> None:
    print(f"hpr.store: bad: {_name(found.path)}: {found.reason}", file=sys.stderr)


def _name(path: Path) -> str:
    """The path as one line: a name in a hostile folder may have line ends."""
    text = str(path)
    return text if text.isprintable() else shown(text)


if __name__ == "__main__":
    sys.exit(main())
