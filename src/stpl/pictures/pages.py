"""Pages in one HTML file that need neither server nor network: they share frame, colours and base style."""

import re
from pathlib import Path
from typing import Any

LIGHT = {
    "paper": "#fbfbfc", "surface": "#fefefe", "raised": "#f1f3f6", "ink": "#1a1f27", "muted": "#586170",
    "line": "#d7dce3", "accent": "#1d55a8", "good": "#0b6e4f", "bad": "#a8321e",
    "chosen": "#c2500a", "series-0": "#1d54a9", "series-1": "#0e7a5f", "series-2": "#8e3a9d", "series-3": "#8a6100",
    "series-4": "#0b7793", "series-5": "#b3245b", "series-6": "#56621f", "series-7": "#5d5bc0",
}  # fmt: skip
"""Name → colour. Text colours have a contrast of at least 4.5 to `paper`, `surface` and `raised` (WCAG AA)."""

DARK = {
    "paper": "#12151a", "surface": "#191d24", "raised": "#232932", "ink": "#e9ecf1", "muted": "#a6afbd",
    "line": "#363e4a", "accent": "#84b4ff", "good": "#5fd0a5", "bad": "#ff9a85",
    "chosen": "#ff9d5c", "series-0": "#85b5fe", "series-1": "#4fcfa4", "series-2": "#d795e6", "series-3": "#e3b341",
    "series-4": "#57c7e3", "series-5": "#ff8fb5", "series-6": "#b9c964", "series-7": "#aeacff",
}  # fmt: skip
"""The same names for the dark theme."""

_ASSETS = Path(__file__).parent / "assets"


def render_page(folder: Path, **values: Any) -> str:
    """The page of the template `page.html.j2` in a folder, with the style `page.css` beside it.

    Args:
        folder: of the template, which extends `base.html.j2`.
        values: what it shows. The filter `code` of the template sets what stands between backticks as code.
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup, escape  # jinja2 brings it

    loader = FileSystemLoader([folder, _ASSETS])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    css = "".join(
        (place / name).read_text(encoding="utf-8") for place, name in ((_ASSETS, "base.css"), (folder, "page.css"))
    )
    return environment.get_template("page.html.j2").render(css=css, light=LIGHT, dark=DARK, **values)
