"""Where the repository and the modules that tests share stand."""

from pathlib import Path

SUPPORT = Path(__file__).parent
REPOSITORY = SUPPORT.parent.parent
