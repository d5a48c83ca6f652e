"""Mean Teacher keeps what every method must."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpl.testing import check_method

pytestmark = pytest.mark.slow


def test_mean_teacher_conforms(tiny_streets: Path, tmp_path: Path) -> None:
    check_method(
        "mean_teacher", tmp_path, golden=[2.423590, 2.522466, 2.452808, 2.429904], ranks=False, streets=tiny_streets
    )
