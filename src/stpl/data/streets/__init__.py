"""The embedded benchmark `streets`: procedural street drives with exact labels and flow.

`palette` → `scene` → `traffic`, `furniture`, `ground` → `layout` → `render`, `domain` → `drive` → `cache` → `reader`.
Only `reader` imports torch, and it is imported only when asked for: the processes that draw start at once.
"""

from typing import TYPE_CHECKING, Any

from stpl.data.streets.cache import StreetsSplit, open_split
from stpl.data.streets.domain import DomainShift
from stpl.data.streets.drive import Drive, StreetsOptions, draw_drive

if TYPE_CHECKING:
    from stpl.data.streets.reader import StreetsClips

__all__ = ["DomainShift", "Drive", "StreetsClips", "StreetsOptions", "StreetsSplit", "draw_drive", "open_split"]


def __getattr__(name: str) -> Any:
    if name == "StreetsClips":
        from stpl.data.streets.reader import StreetsClips

        return StreetsClips
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
