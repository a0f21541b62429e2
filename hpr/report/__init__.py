"""`report.html`: what a folder of results holds, as one page that needs no other file and no network."""

from __future__ import annotations

from pathlib import Path


def write_report(out: Path) -> Path:
    """Write `report.html` from the figures' JSON, the pictures and the records in the folder, and return its path.

    The same files give the same page.

    Raises:
        ValueError: one line, when the folder holds no figure that can be read.
        OSError: the page can't be written.
    """
    # The page needs jinja2, which importing this package does not.
    from hpr.report.folder import read_results
    from hpr.report.page import rendered
    from hpr.system.files import write_atomically

    path = out / "report.html"
    # Characters that are no Unicode, such as bytes of a path, become escapes.
    write_atomically(path, rendered(read_results(out)).encode(errors="backslashreplace"))
    return path
