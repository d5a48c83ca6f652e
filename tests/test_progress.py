"""How far a long piece of work is."""

from __future__ import annotations

import sys

import pytest

from stpl.progress import Progress


def test_a_look_at_work_that_has_not_begun_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("drawing", 4, done=1)
    progress.shown -= 60  # seconds: the next line is due
    progress.add(0)
    assert capsys.readouterr().err == ""
    progress.add(3)
    progress.add(0)
    assert capsys.readouterr().err == "\rdrawing: 100 %, 0 s\033[K\n"
