"""One function a figure: numbers in, a matplotlib figure out. What to draw is decided in `stpl.report.gallery`.

Figures are made without pyplot, so nothing here depends on a display or on the state of a session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stpl.pictures.colours import class_colour
from stpl.pictures.pages import LIGHT
from stpl.report.curves import Curve
from stpl.report.significance import Interval
from stpl.report.theme import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6
"""Inches. All figures are as wide, so that texts are of one size on the page."""

_MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # classes and rows differ by shape, not by colour alone
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))


@dataclass(frozen=True)
class Style:
    """How an experiment looks in all figures.

    Attributes:
        title: in the legend.
        index: its number among the experiments: decides shape and dash.
        colour: hex colour of the light theme.
        bold: whether the page is about it.
    """

    title: str
    index: int
    colour: str
    bold: bool = False

    @property
    def marker(self) -> str:
        """Matplotlib's name of the shape."""
        return _MARKERS[self.index % len(_MARKERS)]

    @property
    def line(self) -> dict[str, Any]:
        """Matplotlib's options of a curve."""
        dash = "-" if self.bold else _DASHES[self.index % len(_DASHES)]
        return {"color": self.colour, "linestyle": dash, "linewidth": 2.6 if self.bold else 1.3}


def _axes(height: float, title: str, xlabel: str = "", ylabel: str = "") -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _legend_below(axes: Axes, columns: int = 2) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, handlelength=2.4)


def curve_figure(curves: Sequence[Curve], styles: Mapping[str, Style], title: str, ylabel: str) -> Figure:
    """A quantity over training steps: mean over seeds, and a band from the least seed to the greatest.

    `styles` has every experiment of the curves; `ylabel` is the quantity with its unit.
    """
    with drawing():
        figure, axes = _axes(2.7 + 0.17 * ((len(curves) + 1) // 2), title, "step", ylabel)
        for curve in sorted(curves, key=lambda curve: styles[curve.experiment].bold):  # the bold one on top
            style = styles[curve.experiment]
            axes.plot(curve.steps, curve.mean, label=style.title, gid=f"line-{curve.experiment}", **style.line)
            if curve.low != curve.high:
                axes.fill_between(curve.steps, curve.low, curve.high, color=style.colour, alpha=0.13, linewidth=0)
        _legend_below(axes)
    return figure


def interval_figure(rows: Sequence[tuple[str, float, Interval | None, float | None]], title: str, bold: str) -> Figure:
    """The mIoU of the rows of a table with their intervals, and the paper's beside them.

    Args:
        rows: title, mIoU in percent, its interval, and the paper's mIoU on the same benchmark, from top to bottom.
        title: of the figure.
        bold: title of the row to stress.
    """
    with drawing():
        figure, axes = _axes(0.9 + 0.24 * len(rows), title, "mIoU at the last step, percent")
        for y, (name, miou, interval, paper) in enumerate(rows):
            colour = LIGHT["chosen" if name == bold else "accent"]
            if interval:
                axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot(miou, y, "o", color=colour, markersize=6, label="ours, with its 95 % interval" if not y else None)
            if paper is not None:
                axes.plot(paper, y, "|", color=LIGHT["ink"], markersize=11, markeredgewidth=2, label="paper")
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.tick_params(axis="y", labelcolor=LIGHT["ink"], length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
    return figure


def class_figure(classes: Sequence[str], rows: Sequence[tuple[Style, Mapping[str, float | None]]]) -> Figure:
    """IoU of every class, from top to bottom, for a few rows (class → percent); a line joins least and greatest."""
    with drawing():
        figure, axes = _axes(1.2 + 0.235 * len(classes), "IoU by class", "IoU at the last step, percent")
        for y, name in enumerate(classes):
            values = [value for _, row in rows if (value := row.get(name)) is not None]
            if values:
                axes.plot([min(values), max(values)], [y, y], color=LIGHT["line"], linewidth=1.5, zorder=1)
            axes.plot(-0.012, y, "s", color=class_colour(name), markeredgecolor=LIGHT["muted"], markeredgewidth=0.5,
                      markersize=7, clip_on=False, transform=axes.get_yaxis_transform())  # fmt: skip
        for style, row in rows:
            points = [(value, y) for y, name in enumerate(classes) if (value := row.get(name)) is not None]
            axes.plot(*np.array(points).T.reshape(2, -1), style.marker, color=style.colour, label=style.title,
                      markersize=6.5 if style.bold else 5, zorder=3 if style.bold else 2)  # fmt: skip
        axes.set_yticks(range(len(classes)), classes)
        axes.tick_params(axis="y", labelcolor=LIGHT["ink"], length=0, pad=11)
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        _legend_below(axes)
    return figure


def embedding_figure(
    positions: NDArray[np.float32], classes: NDArray[np.uint8], names: Sequence[str], title: str
) -> Figure:
    """Figure 6 of the paper: pixels at `positions` `[N,2]` in the plane, of train ids `classes` `[N]`.

    The scale of the positions means nothing; `names` are those of the classes in train-id order.
    """
    with drawing():
        figure, axes = _axes(WIDTH * 0.98, title)
        for number, index in enumerate(dict.fromkeys(classes.tolist())):
            x, y = positions[classes == index].T
            axes.plot(x, y, _MARKERS[number % len(_MARKERS)], color=class_colour(names[index]), label=names[index],
                      markersize=4.4, markeredgecolor=LIGHT["muted"], markeredgewidth=0.5)  # fmt: skip
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
        _legend_below(axes, columns=4)
    return figure


def purity_figure(rows: Sequence[tuple[Style, Mapping[int, float]]]) -> Figure:
    """Figure 7 of the paper: the share of the k nearest neighbours that are of the same class (k → percent)."""
    with drawing():
        title = "Purity of the k nearest neighbours"
        figure, axes = _axes(3.0 + 0.17 * ((len(rows) + 1) // 2), title, "k", "same class, percent")
        for style, purity in sorted(rows, key=lambda row: row[0].bold):
            ks = sorted(purity)
            axes.plot(ks, [purity[k] for k in ks], marker=style.marker, markersize=3.5, label=style.title, **style.line)
        axes.set_xscale("log")
        ks = sorted({k for _, purity in rows for k in purity})
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        _legend_below(axes)
    return figure


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Of the pixels of a class (row), the share in percent that is predicted as each class (column).

    `confusion` holds counts `[K,K]`, rows are the truth.
    """
    truth = confusion.sum(1, keepdims=True)
    share = np.divide(confusion, truth, out=np.zeros(confusion.shape), where=truth > 0)
    with drawing():
        from matplotlib.collections import PatchCollection
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Rectangle

        figure, axes = _axes(WIDTH * 0.93, title, "predicted", "true")
        many = len(classes)
        cells = [Rectangle((x - 0.47, y - 0.47), 0.94, 0.94) for y in range(many) for x in range(many)]
        # One colour of varying opacity is right on light and on dark ground.
        colours = [to_rgba(LIGHT["accent"], 0.04 + 0.96 * value) for value in share.ravel()]
        axes.add_collection(PatchCollection(cells, facecolors=colours, edgecolors="none"))
        for y, x in zip(*np.nonzero(share >= 0.095), strict=True):
            colour = LIGHT["surface" if share[y, x] > 0.62 else "ink"]
            axes.text(x, y, f"{100 * share[y, x]:.0f}", ha="center", va="center", fontsize=6.2, color=colour)
        axes.set(xlim=(-0.5, many - 0.5), ylim=(many - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(many), classes, rotation=90)
        axes.set_yticks(range(many), classes)
        axes.tick_params(length=0, labelsize=7.5, labelcolor=LIGHT["ink"])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return figure


def sensitivity_figure(parameter: str, points: Sequence[tuple[float, float, float | None]], log: bool) -> Figure:
    """The mIoU over a setting: its value, mIoU in percent, and the standard deviation over seeds if there are several.

    With `log`, values lie on a logarithmic scale.
    """
    with drawing():
        figure, axes = _axes(2.7, f"Sensitivity to {parameter}", parameter, "mIoU at the last step, percent")
        x, y, spread = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, [value or 0.0 for value in spread], fmt="o-", color=LIGHT["chosen"], capsize=3)
        if log:
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{value:g}" for value in x])
            axes.minorticks_off()
    return figure


def importance_figure(shares: Sequence[tuple[str, float]], title: str) -> Figure:
    """What a search found to matter: parameters and their shares, 0..1, from top to bottom."""
    with drawing():
        figure, axes = _axes(0.9 + 0.26 * len(shares), title, "importance, percent")
        names = [name.removeprefix("model.") for name, _ in shares]
        axes.barh(names, [100 * share for _, share in shares], color=LIGHT["accent"], height=0.6)
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelcolor=LIGHT["ink"], length=0)
        axes.grid(axis="y", visible=False)
    return figure
