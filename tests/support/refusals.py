"""What tests ask of a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stpl.errors import StplError


def refused(act: Callable[[], object]) -> str:
    """The message of a refusal, which is two lines: what is wrong, and what to do."""
    with pytest.raises(StplError) as caught:
        act()
    said = str(caught.value)
    assert len(said.splitlines()) <= 2
    return said
