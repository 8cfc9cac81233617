from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hwsim.errors import OutputError
from hwsim.report.write import write_atomic


def test_writes_text_and_bytes(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "a.txt", "é") == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    write_atomic(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("make", "path", "words"),
    [
        (None, "missing/out.html", "does not exist; create it"),
        ("folder", "folder", "it is a folder"),
        ("file", "file/out.html", "is not a folder"),
    ],
)
def test_an_unwritable_path_is_one_line(
    tmp_path: Path, make: str | None, path: str, words: str
) -> None:
    if make == "folder":
        (tmp_path / "folder").mkdir()
    elif make == "file":
        (tmp_path / "file").write_text("kept")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(OutputError, match=words) as caught:
        write_atomic(tmp_path / path, "x")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / path) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("fault", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_what_stood_there_stays_when_writing_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    target = tmp_path / "page.html"
    target.write_text("old")

    def broken(self: Path, data: bytes) -> int:
        with self.open("wb") as half:
            half.write(data[:2])
        raise fault

    monkeypatch.setattr(Path, "write_bytes", broken)
    expected = (
        KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else OutputError
    )
    with pytest.raises(expected):
        write_atomic(target, b"new content")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert target.read_text() == "old"


def test_a_link_keeps_pointing_at_the_file_and_the_mode_is_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_atomic(os.devnull, "gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
