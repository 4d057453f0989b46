"""Draw pictures as SVG for a page: colours are those of the page, ids are unique."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from trainsanity.report.pictures import Picture
from trainsanity.report.words import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, FIRST, SECOND = (f"#00000{k}" for k in range(1, 6))
"""Stand-ins for the colours of the page, which follow the reader's light or dark."""

_ROLES = {INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.parse_math": False,  # names from the data may hold a $
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "grid.color": LINE,
    "lines.linewidth": 1.5,
}

WIDTH = 4.5
"""Inches, or 432 CSS pixels: a phone shows three quarters of that, a desktop two of them abreast,
and the smallest letters, of 9 points, stay above 9 pixels."""

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"


def draw(picture: Picture, prefix: str) -> str | None:
    """Return the picture as an ``<svg>`` element; None if it is all table, or has no values.

    Args:
        picture: what is shown.
        prefix: what all ids in it begin with.
    """
    drawer = _drawers.get(picture.name)
    if drawer is None or picture.reason:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = {**STYLE, "svg.hashsalt": prefix}
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        drawer(figure, _numbers(picture.values))
        file = io.StringIO()
        with warnings.catch_warnings():
            # The fonts here only measure the text; the browser draws it with the reader's.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(file, format="svg", metadata=nothing)
    return _for_page(file.getvalue(), picture, prefix)


def _numbers(value: Any) -> Any:
    """Return the values with the numbers that JSON has only words for."""
    match value:
        case "nan" | "inf" | "-inf":
            return float(value)
        case dict():
            return {key: _numbers(item) for key, item in value.items()}
        case list() | tuple():
            return [_numbers(item) for item in value]
        case _:
            return value


def _for_page(text: str, picture: Picture, prefix: str) -> str:
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(text)
    for element in list(root.iter()):
        for child in list(element):
            # A style element would apply to the whole page; the metadata is of no use.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                element.remove(child)
    for defs in list(root.findall(f"{{{_SVG}}}defs")):
        if not len(defs):
            root.remove(defs)
    for element in root.iter():
        _adopt(element, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    title, description = f"{prefix}title", f"{prefix}desc"
    root.set("role", "img")
    root.set("aria-labelledby", f"{title} {description}")
    for position, (tag, key, words) in enumerate(
        (("title", title, picture.title), ("desc", description, picture.sentence))
    ):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": key})
        child.text = clean(words)
        root.insert(position, child)
    return ElementTree.tostring(root, encoding="unicode")


def _adopt(element: ElementTree.Element, prefix: str) -> None:
    if "id" in element.attrib:
        element.set("id", prefix + element.attrib["id"])
    if reference := element.attrib.pop(_HREF, None):
        element.set("href", f"#{prefix}{reference.removeprefix('#')}")
    for name, value in element.attrib.items():
        if "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{prefix}"))
    if style := element.attrib.get("style"):
        for stand_in, role in _ROLES.items():
            style = style.replace(stand_in, f"var(--{role})")
        element.set("style", re.sub(r"'DejaVu Sans'", "inherit", style))


Drawer = Callable[["Figure", dict[str, Any]], None]


def _lengths(figure: Figure, values: dict[str, Any]) -> None:
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
    figure.set_figheight(3.9)
    edges, counts = values["edges"], values["counts"]
    top.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=FIRST)
    top.set_xlabel("tokens in a row")
    top.set_ylabel("rows")
    names, shares = list(values["waste"]), [100 * share for share in values["waste"].values()]
    colours = [SECOND if name == values["set"] else FIRST for name in names]
    bars = bottom.barh(names, shares, color=colours)
    bottom.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3, fontsize=9)
    bottom.invert_yaxis()
    bottom.margins(x=0.2)
    bottom.set_xlabel(f"% padding {values['of']}, by pad_to_multiple_of")


def _trained(figure: Figure, values: dict[str, Any]) -> None:
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 3))
    figure.set_figheight(3.9)
    shares = [100 * share for share in values["shares"]]
    bars = top.barh(values["roles"], shares, color=FIRST)
    top.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=3, fontsize=9)
    top.invert_yaxis()
    top.set_xlim(0, 115)
    top.set_xlabel("% of the role's tokens that are targets")
    edges = [100 * edge for edge in values["edges"]]
    bottom.bar(edges[:-1], values["rows"], width=edges[1] - edges[0], align="edge", color=FIRST)
    bottom.set_xlabel("% of a row's tokens that are targets")
    bottom.set_ylabel("rows")


def _losses(figure: Figure, values: dict[str, Any]) -> None:
    axes = figure.subplots()
    losses, middle, band = values["losses"], values["uninformed"], values["band"]
    axes.axhspan(middle - band, middle + band, color=SECOND, alpha=0.3, linewidth=0,
                 label=f"mean if uninformed, {middle:.3f} ± {band:.3f}")  # fmt: skip
    axes.plot(range(1, len(losses) + 1), losses, linestyle="", marker="o", markersize=3,
              color=FIRST, label="examples, sorted")  # fmt: skip
    axes.axhline(values["mean"], color=INK, label=f"their mean, {values['mean']:.3f}")
    axes.axhline(values["log_classes"], color=MUTED, linestyle=":",
                 label=f"log C = {values['log_classes']:.3f}")  # fmt: skip
    axes.set_xlabel("examples of the first step, by loss")
    axes.set_ylabel("loss")
    _legend(figure, axes)


def _slope(figure: Figure, values: dict[str, Any]) -> None:
    axes = figure.subplots()
    x, y = values["x"], values["y"]
    ends = [min(x), max(x)]
    axes.plot(x, y, linestyle="", marker="o", markersize=3, color=FIRST, alpha=0.7,
              label="elements of the gradient")  # fmt: skip
    axes.plot(ends, [values["slope"] * end for end in ends], color=INK, linewidth=1,
              label=f"slope {values['slope']:.3f}")  # fmt: skip
    axes.plot(ends, ends, color=SECOND, linestyle="--", label="slope 1, which is right")
    axes.set_xlabel("closed form")
    axes.set_ylabel("accumulated by the Trainer")
    axes.ticklabel_format(style="sci", scilimits=(-2, 3))
    _legend(figure, axes)


def _movement(figure: Figure, values: dict[str, Any]) -> None:
    axes = figure.subplots()
    names = _short(values["layers"])
    figure.set_figheight(1.6 + 0.22 * len(names))
    places = range(len(names))
    axes.barh(places, [100 * share for share in values["moved"]], color=FIRST, label="move")
    predicted = [100 * share for share in values["predicted"]]
    axes.plot(predicted, places, linestyle="", marker="|", markersize=9,
              markeredgewidth=2, color=SECOND, label="predicted from the dtype")  # fmt: skip
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("% of the elements with a gradient")
    _legend(figure, axes)


def _step_parts(figure: Figure, values: dict[str, Any]) -> None:
    axes = figure.subplots()
    figure.set_figheight(1.2 + 0.26 * len(values["names"]))
    shares = [100 * share for share in values["shares"]]
    bars = axes.barh(values["names"], shares, color=FIRST)
    axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("% of a step")


def _learning_rate(figure: Figure, values: dict[str, Any]) -> None:
    axes = figure.subplots()
    axes.plot(values["steps"], values["rates"], color=FIRST, label="schedule")
    step, rate = values["stands"]
    if rate is not None:
        axes.plot([step], [rate], linestyle="", marker="D", markersize=7, color=SECOND,
                  clip_on=False, label=f"the run stands here: step {step}, {rate:.3g}")  # fmt: skip
    if values["warmup_steps"]:
        axes.axvline(values["warmup_steps"], color=MUTED, linestyle=":",
                     label=f"end of the warm-up, {values['warmup_steps']:,}")  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the axes, where it covers no data."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left")


def _short(names: list[str]) -> list[str]:
    """Cut from layer names the path that all share, and from long ones the beginning."""
    names = [clean(name) for name in names]
    first = names[0].split(".")
    while len(first) > 1 and all(name.startswith(first[0] + ".") for name in names):
        names = [name.removeprefix(first[0] + ".") for name in names]
        first = names[0].split(".")
    return [name if len(name) <= 24 else f"…{name[-23:]}" for name in names]


_drawers: dict[str, Drawer] = {
    "lengths": _lengths,
    "trained": _trained,
    "losses": _losses,
    "slope": _slope,
    "movement": _movement,
    "learning_rate": _learning_rate,
    "step_parts": _step_parts,
}
