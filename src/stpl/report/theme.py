"""Figures as SVG that follows the colours of the page.

Figures are drawn by matplotlib in the colours of the light theme. On the page, each of these colours becomes the CSS
variable of the same name, so one SVG serves light, dark and print. Colours of classes are data and stay as they are.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpl.errors import StplError
from stpl.files import write_atomically
from stpl.pictures.pages import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST = 9.3  # points: on a phone 390 px wide a figure of 4.6 inches shows one as 0.98 px
_SIZE = 9.5


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's settings while a figure is made or saved, as a decorator too; equal figures give equal bytes.

    Raises:
        StplError: if matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise StplError("figures need matplotlib", mend="pip install 'stpl[report]'") from error
    ink, muted, line = LIGHT["ink"], LIGHT["muted"], LIGHT["line"]
    settings: Any = {
        "font.size": _SIZE, "font.family": "DejaVu Sans", "text.color": ink, "axes.labelcolor": muted,
        "axes.titlesize": _SIZE + 0.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": ink,
        "axes.edgecolor": line, "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": line, "grid.linewidth": 0.6, "xtick.color": line,
        "ytick.color": line, "xtick.labelcolor": muted, "ytick.labelcolor": muted, "figure.facecolor": "none",
        "legend.frameon": False, "legend.fontsize": SMALLEST,
        "legend.columnspacing": 1.2, "legend.handletextpad": 0.5, "legend.labelcolor": ink, "lines.linewidth": 1.6,
        "svg.fonttype": "none", "svg.hashsalt": "stpl", "pdf.fonttype": 42, "savefig.facecolor": "none",
        "axes.unicode_minus": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield


_TAGS = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_FONT = re.compile(r"font: ((?:[\w.]+ )*?[\d.]+px) [^;\"]+")
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')
_SIZES = re.compile(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"([^>]*?)>')


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure that was drawn under `drawing` as an `<svg>` element for the page.

    Its `name` is unique on the page, the prefix of all ids inside; the `description` is for screen readers.
    """
    text = _TAGS.sub("", _saved(figure, "svg").decode()).strip()
    text = _SIZES.sub(r"\1\2>", text, count=1)
    label = html.escape(description, quote=True)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    text = _ID.sub(lambda match: f"{match[1]}{name}-", _FONT.sub(r"font: \1 var(--sans)", text))
    for variable, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


@drawing()
def _saved(figure: Figure, kind: str) -> bytes:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):  # goes on from where it is, and would move a little at every saving
        engine.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
    figure.savefig(buffer, format=kind, dpi=200, metadata=undated)
    return buffer.getvalue()


def export(figure: Figure, path: Path) -> list[Path]:
    """Write a figure that was drawn under `drawing` as SVG, PNG (200 dots an inch) and PDF on white.

    The files are `path` with these suffixes. Each is written as a whole; raises `StplError` if the disk refuses one.
    """
    files = []
    figure.set_facecolor("white")
    for kind in ("svg", "png", "pdf"):
        files.append(path.with_name(f"{path.name}.{kind}"))
        write_atomically(files[-1], _saved(figure, kind))
    figure.set_facecolor("none")
    return files
