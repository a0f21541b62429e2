"""What a network file system answers and a disk does not: lost replies, lost handles, and folders that are gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpr.experiment.run_claims import Claims
from hpr.system.files import read_regular, write_atomically, write_new

KEY = "0123456789abcdef"
WRITERS: list[Callable[[Path, bytes], None]] = [write_atomically, write_new]


def claim(path: Path, content: bytes) -> None:
    claims = Claims(path.parent)
    assert claims.take(KEY)
    assert not Claims(path.parent).take(KEY)
    path.write_bytes(content)


@pytest.mark.parametrize("write", [*WRITERS, claim])
def test_a_folder_that_another_program_removes_at_this_moment_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    made = []
    mkdir = Path.mkdir

    def mkdir_and_lose(folder: Path, *arguments: object, **options: object) -> None:
        mkdir(folder, *arguments, **options)  # type: ignore[arg-type]
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir_and_lose)
    path = tmp_path / "folder" / "file"
    write(path, b"content")
    assert path.read_bytes() == b"content"
    assert len(made) > 1


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_in_the_place_of_the_folder_is_told(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileExistsError):
        write(tmp_path / "file" / "name", b"content")


def test_a_renaming_or_a_link_whose_answer_is_lost_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, link = os.replace, os.link

    def replace_twice(source: Path, target: Path) -> None:
        replace(source, target)
        replace(source, target)

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "replace", replace_twice)
    monkeypatch.setattr(os, "link", link_twice)
    for number, write in enumerate(WRITERS):
        write(tmp_path / f"{number}", b"content")
        assert (tmp_path / f"{number}").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "0", b"content")
    claim(tmp_path / "claims" / "file", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "claims"}


def test_a_renaming_that_failed_has_not_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: Path, target: Path) -> None:
        source.unlink()
        raise FileNotFoundError(errno.ENOENT, "gone", str(source))

    (tmp_path / "file").write_bytes(b"what was there")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "file", b"content")


@pytest.mark.parametrize(("losses", "told"), [(2, False), (10, True)])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: int, told: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    read, lost = os.read, []

    def lose(number: int, count: int) -> bytes:
        lost.append(number)
        if len(lost) <= losses:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(number, count)

    monkeypatch.setattr(os, "read", lose)
    if told:
        with pytest.raises(OSError, match="Stale"):
            read_regular(path, 100)
    else:
        assert read_regular(path, 100) == b"content"
