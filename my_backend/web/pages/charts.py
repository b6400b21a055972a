"""SVG charts, drawn on the server by pygal; their colors come from the stylesheet."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal
from xml.etree.ElementTree import Element

from markupsafe import Markup

from my_backend.projects.version_metrics import Bin, Forecast
from my_backend.web.pages.curves import Points, spread

WIDTH, HEIGHT = 640, 200
CURVE_WIDTH, CURVE_HEIGHT = 400, 160  # about the size at which two are shown side by side
REACH = 14.0  # how far from a point the pointer may be
NEAR_EDGE = 60  # where a point's text wouldn't fit on both sides
WHOLE_WIDTH = 800  # of a chart that is alone in its panel
SQUARE = 400
MAX_LABELS = 8  # below the horizontal axis
MAX_DOTS = 30  # of a curve; the page is loaded every second during a training run
SPARE = "spare"  # class of a dot that is left out


@cache
def _pygal() -> Any:
    import pygal  # here, so that a server listens earlier

    # It adds an import finder for its map plugins, of a kind that Python 3.12 no longer supports.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]
    return pygal


def _chart(kind: Literal["Line", "XY"], *, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Any:
    chart = getattr(_pygal(), kind)(
        no_prefix=True,
        css=(),
        js=(),
        width=width,
        height=height,
        margin=4,
        margin_left=12,
        margin_right=22,  # for half of the last label
        spacing=6,
        show_legend=False,
        disable_xml_declaration=True,
        dots_size=3,
        truncate_label=-1,
        **options,
    )
    chart.add_xml_filter(_plain)
    return chart


def _plain(root: Element) -> Element:
    """Removes inline styles and scripts, which the page's policy forbids, and elements that only scripts use.

    The stylesheet shows a point's value while the pointer is near it.
    """
    for series in list(root.iter()):
        points = [one for one in series if one.get("class") == "dots" and not _is_spare(one)]
        reach = _reach(points)
        for dots in points:
            _name_point(dots, float(root.get("viewBox", "0 0 0 0").split()[2]), reach)
    for parent in list(root.iter()):
        for child in list(parent):
            is_unused = child.tag in ("defs", "title", "desc") or _is_tooltip(child) or _is_spare(child)
            if not isinstance(child.tag, str) or is_unused:
                parent.remove(child)
    root.attrib.pop("id", None)
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    return root


def _reach(points: Sequence[Element]) -> float:
    """How far to the side a point of a series can be pointed at without covering its neighbors."""
    places = sorted(float(circle.get("cx", 0)) for dots in points if (circle := dots.find("circle")) is not None)
    return min([REACH, *((after - before) / 2 for before, after in pairwise(places) if after > before)])


def _name_point(dots: Element, width: float, reach: float) -> None:
    """Adds an invisible ellipse, large enough to point at, and the point's name and value."""
    circle = dots.find("circle")
    described = {str(one.get("class")).split()[0]: one.text or "" for one in dots.findall("desc")}
    if circle is None or "value" not in described:
        return
    x, y = float(circle.get("cx", 0)), float(circle.get("cy", 0))
    near = {"class": "reach", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "rx": f"{reach:.1f}", "ry": f"{REACH:.0f}"}
    side = "at-start" if x < NEAR_EDGE else "at-end" if x > width - 3 * NEAR_EDGE else "at-middle"
    above = y - 10 if y > 24 else y + 20
    text = dots.makeelement("text", {"class": f"tip {side}", "x": f"{x:.1f}", "y": f"{above:.1f}"})
    text.text = ": ".join(filter(None, [described.get("label", ""), described["value"]]))
    dots.extend([dots.makeelement("ellipse", near), text])  # pygal uses lxml's elements if it is installed


def _is_tooltip(node: Element) -> bool:
    return "tooltip-overlay" in (node.get("class") or "")


def _is_spare(node: Element) -> bool:
    return node.get("class") == "dots" and node.find(f"circle[@class='{SPARE}']") is not None


def _drawn(chart: Any) -> Markup:
    return Markup(chart.render(is_unicode=True))  # noqa: S704  pygal escapes what it is given


def accuracy_chart(versions: Sequence[tuple[str, float]]) -> Markup:
    """A chart of the accuracy (0 to 1) of versions, from the oldest to the newest."""
    lowest = min(accuracy for _, accuracy in versions)
    floor = int(lowest * 10 - 0.5) if lowest > 0.55 else 0  # tenths
    chart = _chart("Line", width=WHOLE_WIDTH, range=(floor / 10, 1.0), include_x_axis=False)
    chart.y_labels = [tenths / 10 for tenths in range(floor, 11, 1 if floor else 2)]
    chart.x_labels = _thinned([name for name, _ in versions])
    chart.value_formatter = _percent
    chart.add("accuracy", [{"value": accuracy, "label": name} for name, accuracy in versions])
    return _drawn(chart)


def curves(series: Mapping[str, Points], *, share: bool) -> Markup:
    """A chart by epoch of the loss, or the accuracy (a `share` from 0 to 1), of one or more training runs, by name."""
    epochs = sorted({epoch for points in series.values() for epoch, _ in points})
    highest = 1.0 if share else max(1e-6, *(value for points in series.values() for _, value in points))
    size = {"width": CURVE_WIDTH, "height": CURVE_HEIGHT}
    chart = _chart("Line", **size, range=(0.0, highest))
    chart.y_labels = _steps(0.0, highest)
    chart.value_formatter = _percent if share else "{:.3g}".format
    chart.x_labels = _thinned([str(epoch) for epoch in epochs])
    dotted = set(spread(epochs, MAX_DOTS))
    for name, points in series.items():
        known = dict(points)
        named = f"{name}, epoch" if name else "epoch"
        values = [{"value": known.get(epoch), "label": f"{named} {epoch}"} for epoch in epochs]
        spare: dict[str, Any] = {"node": {"class": SPARE}}
        chart.add(name, [one if at in dotted else one | spare for at, one in zip(epochs, values, strict=True)])
    return _drawn(chart)


def forecast_chart(forecast: Forecast) -> Markup:
    """A chart of the learning curve so far, by the number of labels, and of its continuation with its interval."""
    expected = [(forecast.labels + one.more, one) for one in forecast.expected]
    so_far = [(point.labels, point.accuracy) for point in forecast.curve]
    last = expected[-1][0]
    chart = _chart("XY", range=(0.0, 1.0), xrange=(0, last))
    chart.x_labels = [0, forecast.labels, last]
    chart.y_labels = _steps(0.0, 1.0)
    chart.value_formatter, chart.x_value_formatter = _percent, "{:.0f}".format
    chart.add("measured", so_far)
    chart.add("expected", [(forecast.labels, forecast.now), *((place, one.accuracy) for place, one in expected)])
    chart.add("low", [(place, one.low) for place, one in expected], show_dots=False)
    chart.add("high", [(place, one.high) for place, one in expected], show_dots=False)
    return _drawn(chart)


def calibration_chart(bins: Sequence[Bin]) -> Markup:
    """A chart of how often predictions of a probability are correct; a calibrated model is on the diagonal."""
    chart = _chart("XY", width=SQUARE, height=SQUARE, range=(0.0, 1.0), xrange=(0.0, 1.0))
    chart.x_labels = chart.y_labels = _steps(0.0, 1.0)
    chart.value_formatter = chart.x_value_formatter = _percent
    chart.add("ideal", [(0, 0), (1, 1)], show_dots=False)
    chart.add("model", [(one.confidence, one.right) for one in bins])
    return _drawn(chart)


def _steps(low: float, high: float) -> list[float]:
    return [low + (high - low) * number / 4 for number in range(5)]


def _thinned(names: list[str]) -> list[str]:
    every = -(-len(names) // MAX_LABELS)
    return [name if number % every == 0 else "" for number, name in enumerate(names)]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"
