"""One function a figure: numbers in, a matplotlib figure out. What to draw is decided in `stpl.report.gallery`.

Figures are made without pyplot, so nothing here depends on a display or on the state of a session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from stpl.errors import StplError
from stpl.pictures.colours import class_colour
from stpl.pictures.pages import LIGHT
from stpl.report.curves import Curve
from stpl.report.rows import TableLines
from stpl.report.theme import SMALLEST, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_CLASSES = ("road", "light", "car", "bicycle")
"""The classes of the paper's Figure 6."""

_WIDTH = 4.6  # inches; all figures are as wide, so that texts are of one size on the page
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # classes and rows differ by shape, not by colour alone
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
_COMPONENTS = 50  # principal components that t-SNE sees: van der Maaten & Hinton 2008, §4.2


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

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _legend_below(axes: Axes, columns: int = 2) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, handlelength=2.0)


def _name_rows(axes: Axes, names: Sequence[str], pad: float = 3.5) -> None:
    """Write names, `pad` points from the axis, beside rows that lie at 0, 1, … from top to bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"], length=0, pad=pad)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


@drawing()
def curve_figure(curves: Sequence[Curve], styles: Mapping[str, Style], title: str, ylabel: str) -> Figure:
    """A quantity over training steps: mean over seeds; with several, a band from the least seed to the greatest.

    `styles` has every experiment of the curves; `ylabel` is the quantity with its unit.
    """
    figure, axes = _axes(2.7 + 0.17 * ((len(curves) + 1) // 2), title, "step", ylabel)
    for curve in sorted(curves, key=lambda curve: styles[curve.experiment].bold):  # the bold one on top
        style = styles[curve.experiment]
        axes.plot(curve.steps, curve.mean, label=style.title, gid=f"line-{curve.experiment}", **style.line)
        if curve.seeds > 1:
            axes.fill_between(curve.steps, curve.low, curve.high, color=style.colour, alpha=0.13, linewidth=0)
    _legend_below(axes)
    return figure


@drawing()
def interval_figure(table: TableLines, chosen: str) -> Figure:
    """The mIoU of a table's rows with their intervals, that of `chosen` stressed, and the paper's where it compares."""
    lines = [(line, line.last) for line in table.lines if line.last is not None]
    figure, axes = _axes(0.9 + 0.24 * len(lines), table.table.title, "mIoU at the last step, percent")
    for y, (line, miou) in enumerate(lines):
        colour, ends = LIGHT["chosen" if line.experiment == chosen else "accent"], line.interval
        if ends:
            axes.plot([ends.low, ends.high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(miou, y, "o", color=colour, markersize=6, label=None if y else "ours, with its 95 % interval")
        if table.comparable and line.paper is not None:
            axes.plot(line.paper, y, "|", color=LIGHT["ink"], markersize=11, markeredgewidth=2, label="paper")
    _name_rows(axes, [line.title for line, _ in lines])
    return figure


@drawing()
def class_figure(classes: Sequence[str], rows: Sequence[tuple[Style, Mapping[str, float | None]]]) -> Figure:
    """IoU of every class, from top to bottom, for a few rows (class → percent); a line joins least and greatest."""
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
    _name_rows(axes, classes, pad=11)
    _legend_below(axes)
    return figure


def plane(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """t-SNE of features `[N,D]` (van der Maaten & Hinton, JMLR 2008), begun at their first two principal components.

    The same features give the same plane on the same machine: all runs in one thread, because the order in which
    threads add up their forces is left to chance. The perplexity is 30, and lower for few points.

    Returns:
        Positions float32 `[N,2]`; their scale and direction mean nothing. Fewer than four points get a line.

    Raises:
        StplError: if scikit-learn, which only the extra `stpl[report]` brings, is not installed.
    """
    if len(features) < 4:
        return np.stack([np.arange(len(features)), np.zeros(len(features))], axis=1).astype(np.float32)
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn brings it
    except ImportError as error:
        raise StplError(
            "the figure of the feature space needs scikit-learn", mend="pip install 'stpl[report]'"
        ) from error
    points = features.astype(np.float64)
    with threadpool_limits(limits=1):
        components = min(_COMPONENTS, len(points), points.shape[1])
        points = PCA(components, random_state=0).fit_transform(points)
        layout = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), init="pca", random_state=0)
        return cast(NDArray[np.float32], layout.fit_transform(points).astype(np.float32))


@drawing()
def embedding_figure(
    positions: NDArray[np.float32], classes: NDArray[np.uint8], names: Sequence[str], title: str
) -> Figure:
    """Figure 6 of the paper: pixels of train ids `classes` `[N]` at `positions` `[N,2]`, the `plane` of their features.

    `names` are those of the classes in train-id order.
    """
    figure, axes = _axes(_WIDTH * 0.98, title)
    for number, index in enumerate(dict.fromkeys(classes.tolist())):
        x, y = positions[classes == index].T
        axes.plot(x, y, _MARKERS[number % len(_MARKERS)], color=class_colour(names[index]), label=names[index],
                  markersize=4.4, markeredgecolor=LIGHT["muted"], markeredgewidth=0.5)  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(True)
    _legend_below(axes, columns=4)
    return figure


@drawing()
def purity_figure(rows: Sequence[tuple[Style, Mapping[int, float]]]) -> Figure:
    """Figure 7 of the paper: the share of the k nearest neighbours that are of the same class (k → percent)."""
    title = "Purity of the k nearest neighbours"
    figure, axes = _axes(3.0 + 0.17 * ((len(rows) + 1) // 2), title, "k", "same class, percent")
    for style, purity in sorted(rows, key=lambda row: row[0].bold):
        ks = sorted(purity)
        axes.plot(ks, [purity[k] for k in ks], marker=style.marker, markersize=3.5, label=style.title, **style.line)
    _logarithmic(axes, sorted({k for _, purity in rows for k in purity}))
    _legend_below(axes)
    return figure


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


@drawing()
def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Of the pixels of a class (row), the share in percent that is predicted as each class (column).

    `confusion` holds counts `[K,K]`, rows are the truth.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    truth = confusion.sum(1, keepdims=True)
    share = np.divide(confusion, truth, out=np.zeros(confusion.shape), where=truth > 0)
    figure, axes = _axes(_WIDTH * 0.93, title, "predicted", "true")
    many = len(classes)
    cells = [Rectangle((x - 0.47, y - 0.47), 0.94, 0.94) for y in range(many) for x in range(many)]
    # One colour of varying opacity is right on light and on dark ground.
    colours = [to_rgba(LIGHT["accent"], 0.04 + 0.96 * value) for value in share.ravel()]
    axes.add_collection(PatchCollection(cells, facecolors=colours, edgecolors="none"))
    for y, x in zip(*np.nonzero(share >= 0.095), strict=True):
        colour = LIGHT["surface" if share[y, x] > 0.62 else "ink"]
        axes.text(x, y, f"{100 * share[y, x]:.0f}", ha="center", va="center", fontsize=SMALLEST, color=colour)
    axes.set(xlim=(-0.5, many - 0.5), ylim=(many - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(many), classes, rotation=90)
    axes.set_yticks(range(many), classes)
    axes.tick_params(length=0, labelsize=SMALLEST, labelcolor=LIGHT["ink"])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


@drawing()
def sensitivity_figure(parameter: str, points: Sequence[tuple[float, float, float | None]], log: bool) -> Figure:
    """The mIoU over a setting: its value, mIoU in percent, and the standard deviation over seeds if there are several.

    With `log`, values lie on a logarithmic scale.
    """
    figure, axes = _axes(2.7, f"Sensitivity to {parameter}", parameter, "mIoU at the last step, percent")
    x, y, spread = zip(*sorted(points), strict=True)
    axes.errorbar(x, y, [value or 0.0 for value in spread], fmt="o-", color=LIGHT["chosen"], capsize=3)
    if log:
        _logarithmic(axes, x)
    return figure


@drawing()
def importance_figure(shares: Sequence[tuple[str, float]], title: str) -> Figure:
    """What a search found to matter: parameters and their shares, 0..1, from top to bottom."""
    figure, axes = _axes(0.9 + 0.26 * len(shares), title, "importance, percent")
    names = [name.removeprefix("model.") for name, _ in shares]
    axes.barh(names, [100 * share for _, share in shares], color=LIGHT["accent"], height=0.6)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"], length=0)
    axes.grid(axis="y", visible=False)
    return figure
