"""The embedded benchmark `streets`: procedural street drives with exact labels and flow.

`palette` → `scene` → `traffic`, `furniture`, `ground` → `layout` → `render`, `domain` → `drive` → `cache` → `reader`.
Only `reader` imports torch, so that the processes that draw start at once.
"""

from stpl.data.streets.cache import StreetsSplit, open_split
from stpl.data.streets.domain import DomainShift
from stpl.data.streets.drive import Drive, StreetsOptions, draw_drive

__all__ = ["DomainShift", "Drive", "StreetsOptions", "StreetsSplit", "draw_drive", "open_split"]
