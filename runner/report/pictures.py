"""The pictures of a report, as PNG: heat maps or lines of quality, bars of throughput, bars of time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import Any

from runner.plan.settings import Value
from runner.report.report import MemberReport, Report, seconds_of

_MOST_PANELS = 6  # heat maps side by side; beyond, members are bars
_MOST_BARS = 48
_MOST_CURVES = 12


@dataclass(frozen=True)
class Theme:
    """The colours of a picture; those of the page around it."""

    name: str
    paper: str
    ink: str
    faint: str
    series: tuple[str, ...]


LIGHT = Theme("light", "#ffffff", "#1f2328", "#d1d9e0", ("#0969da", "#bc4c00", "#1a7f37"))
DARK = Theme("dark", "#0d1117", "#e6edf3", "#3d444d", ("#58a6ff", "#f0883e", "#3fb950"))


@dataclass(frozen=True)
class Picture:
    """One picture: `draw(theme, narrow)` gives its PNG; `alt` says in words what it shows."""

    name: str
    title: str
    alt: str
    draw: Callable[[Theme, bool], bytes]


def pictures(report: Report) -> tuple[Picture, ...]:
    """Those for which the report has figures."""
    found = []
    if report.curves:
        found.append(_curves_picture(report))
    if report.quality:
        found.append(_quality_picture(report))
    if any("samples_per_second" in member.figures for member in report.finished):
        found.append(_throughput_picture(report))
    if report.generation_s:
        found.append(_time_picture(report))
    return tuple(found)


def words(name: str) -> str:
    """`pass@1` for pass_at_1, `majority vote` for majority_vote."""
    return name.replace("_at_", "@").replace("_", " ")


def label(member: MemberReport, axes: Sequence[str]) -> str:
    """`temperature 0.7, n 8`."""
    return ", ".join(f"{axis} {shown(member.values.get(axis))}" for axis in axes) or f"#{member.number}"


def shown(value: Value) -> str:
    """A value as a label: paths by their last part."""
    text = "null" if value is None else str(value)
    return text if len(text) <= 24 else "…" + text[-23:]


# ------------------------------------------------------------------------------------ quality


def _quality_picture(report: Report) -> Picture:
    """Lines over one axis, heat maps over two and more, bars where the members are no grid."""
    names = ", ".join(map(words, report.quality))
    best = report.best
    won = f"; the best is {label(best, report.axes)}" if best else ""
    alt = f"{names} of {len(report.finished)} members over {', '.join(report.axes) or 'members'}{won}"
    return Picture("quality", f"Quality: {names}", alt, lambda theme, narrow: _quality(report, theme, narrow))


def _quality(report: Report, theme: Theme, narrow: bool) -> bytes:
    """The picture that the number of axes asks for."""
    facets = list(product(*(report.levels(axis) for axis in report.axes[2:])))
    if report.is_grid and len(report.axes) == 1:
        return _lines(report, theme, narrow)
    if report.is_grid and len(report.axes) > 1 and len(facets) <= _MOST_PANELS:
        return _heat_maps(report, facets, theme, narrow)
    return _bars(report, report.quality, theme, narrow)


def format_figure(figure: float) -> str:
    """Shares with three digits, whatever they end in; other figures as short as they are."""
    return f"{figure:.3f}" if 0 <= figure <= 1 else f"{figure:.4g}"


def _lines(report: Report, theme: Theme, narrow: bool) -> bytes:
    """One line a figure."""
    axis = report.axes[0]
    figure, plots = _canvas(1, 1, (4.0, 3.4) if narrow else (9.0, 4.0), theme)
    plot = plots[0]
    levels = report.levels(axis)
    for name, colour in zip(report.quality, theme.series * 3, strict=False):
        points = [(_at_level(level, i), m.figures[name]) for i, level in enumerate(levels)
                  for m in report.finished if m.values.get(axis) == level and name in m.figures]  # fmt: skip
        xs, ys = zip(*points, strict=True) if points else ((), ())
        plot.plot(xs, ys, marker="o", color=colour, label=words(name))
    if not all(_is_number(level) for level in levels):
        plot.set_xticks(range(len(levels)), [shown(level) for level in levels])
    plot.set_xlabel(axis)
    plot.grid(axis="y", color=theme.faint, linewidth=0.6)
    _legend(plot, theme)
    return _png(figure)


def _heat_maps(report: Report, facets: list[tuple[Value, ...]], theme: Theme, narrow: bool) -> bytes:
    """A panel for each figure and each combination of the axes beyond the second."""
    panels = list(product(report.quality, facets))
    num_columns = 1 if narrow else len(facets)
    num_rows = len(panels) // num_columns
    tall = 0.55 + 0.3 * len(report.levels(report.axes[0]))
    width = 4.0 if narrow else max(9.0, 2.6 * num_columns)
    figure, plots = _canvas(num_rows, num_columns, (width, tall * num_rows + 0.5), theme)
    for plot, (name, facet) in zip(plots, panels, strict=True):
        _heat_map(plot, report, name, facet, theme)
    return _png(figure)


def _heat_map(plot: Any, report: Report, name: str, facet: tuple[Value, ...], theme: Theme) -> None:
    """One panel: the first axis downward, the second to the right, the figure written in each cell."""
    down, right = (report.levels(axis) for axis in report.axes[:2])
    told = {_key(m, report.axes): m.figures.get(name) for m in report.members}
    cells = [[told.get(tuple(map(repr, (d, r, *facet)))) for r in right] for d in down]
    every = [m.figures[name] for m in report.finished if name in m.figures]
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    plain = [[float("nan") if cell is None else cell for cell in row] for row in cells]
    plot.imshow(plain, cmap="viridis", vmin=low, vmax=high if high > low else low + 1e-9, aspect="auto")
    for (i, row), (j, _) in product(enumerate(cells), enumerate(right)):
        cell = row[j]
        bright = cell is not None and cell - low > 0.6 * (high - low)
        ink = theme.ink if cell is None else ("#000000" if bright else "#ffffff")
        text = "–" if cell is None else format_figure(cell)
        plot.text(j, i, text, ha="center", va="center", color=ink, fontsize=8)
    where = ", ".join(f"{a} {shown(v)}" for a, v in zip(report.axes[2:], facet, strict=True))
    plot.set_title(f"{words(name)}{' · ' if where else ''}{where}", fontsize=9, color=theme.ink)
    plot.set_xticks(range(len(right)), [shown(value) for value in right])
    plot.set_yticks(range(len(down)), [shown(value) for value in down])
    plot.set_xlabel(report.axes[1], fontsize=8)
    plot.set_ylabel(report.axes[0], fontsize=8)


def _key(member: MemberReport, axes: Sequence[str]) -> tuple[str, ...]:
    """Where a member is in the grid."""
    return tuple(repr(member.values.get(axis)) for axis in axes)


def _bars(report: Report, names: Sequence[str], theme: Theme, narrow: bool) -> bytes:
    """A row a member, a bar a figure; of very many members the first ones."""
    members = [m for m in report.finished if any(name in m.figures for name in names)][:_MOST_BARS]
    size = (4.0 if narrow else 9.0, 0.9 + 0.26 * len(members) * (1 + 0.4 * (len(names) - 1)))
    figure, plots = _canvas(1, 1, size, theme)
    plot = plots[0]
    thick = 0.8 / len(names)
    for k, (name, colour) in enumerate(zip(names, theme.series * 3, strict=False)):
        rows = [i + (k - (len(names) - 1) / 2) * thick for i in range(len(members))]
        values = [m.figures.get(name, 0.0) for m in members]
        plot.barh(rows, values, height=thick * 0.9, color=colour, label=words(name))
    plot.set_yticks(range(len(members)), [_wrapped(label(m, report.axes), narrow) for m in members])
    plot.set_ylim(len(members) - 0.4, -0.6)
    plot.spines[["top", "right", "left"]].set_visible(False)
    plot.tick_params(left=False)
    plot.set_ylabel(", ".join(report.axes) if narrow else "", fontsize=8)
    plot.grid(axis="x", color=theme.faint, linewidth=0.6)
    plot.set_axisbelow(True)
    if len(names) == 1:
        plot.set_xlabel(words(names[0]))
    else:
        _legend(plot, theme)
    return _png(figure)


def _wrapped(text: str, narrow: bool) -> str:
    """A label of bars; on a narrow page the names of the axes give way."""
    return ", ".join(part.rpartition(" ")[2] for part in text.split(", ")) if narrow else text


# ------------------------------------------------------------------------------------ curves


def _curves_picture(report: Report) -> Picture:
    """What a run logged, a panel for each figure."""
    names = ", ".join(map(words, report.curves))
    return Picture("curves", "Metrics", f"{names} over steps", lambda t, narrow: _curves(report, t, narrow))


def _curves(report: Report, theme: Theme, narrow: bool) -> bytes:
    """Small panels, three in a row on a wide page."""
    shown_curves = list(report.curves.items())[:_MOST_CURVES]
    num_columns = 1 if narrow else min(3, len(shown_curves))
    num_rows = -(-len(shown_curves) // num_columns)
    figure, plots = _canvas(num_rows, num_columns, (4.0 if narrow else 9.0, 2.2 * num_rows + 0.2), theme)
    for plot in plots[len(shown_curves) :]:
        plot.set_visible(False)
    for plot, (name, points) in zip(plots, shown_curves, strict=False):
        xs, ys = zip(*points, strict=True)
        plot.plot(xs, ys, color=theme.series[0], marker="." if len(xs) < 50 else None)
        plot.set_title(words(name), fontsize=9, color=theme.ink)
        plot.grid(axis="y", color=theme.faint, linewidth=0.6)
        plot.set_xlabel("step", fontsize=8)
    return _png(figure)


# ------------------------------------------------------------------------------------ speed


def _throughput_picture(report: Report) -> Picture:
    """Samples a second by member."""
    return Picture(
        "throughput",
        "Throughput: samples per second",
        f"samples per second of {len(report.finished)} members, the loading of the model apart",
        lambda theme, narrow: _bars(report, ("samples_per_second",), theme, narrow),
    )


def _time_picture(report: Report) -> Picture:
    """Loading beside the members' own time."""
    return Picture(
        "time",
        "Time: loading beside generating",
        f"{report.load_s:.1f} s of loading and {report.generation_s:.1f} s of generating",
        lambda theme, narrow: _time(report, theme, narrow),
    )


def _time(report: Report, theme: Theme, narrow: bool) -> bytes:
    """One row as it was, one as it would have been if each member had loaded the model by itself."""
    num_loads = len({member.process for member in report.finished})
    once = report.load_s / max(1, num_loads)
    rows = [("as it ran", report.load_s)]
    if report.load_s and len(report.finished) > num_loads:
        rows.append((f"if each of {len(report.finished)}\nhad loaded alone", once * len(report.finished)))
    figure, plots = _canvas(1, 1, (4.0 if narrow else 9.0, 0.9 + 0.6 * len(rows)), theme)
    plot = plots[0]
    for i, (_, load) in enumerate(rows):
        plot.barh(i, load, height=0.55, color=theme.series[1], label="loading" if i == 0 else None)
        left = load
        for member in report.finished:
            took = seconds_of(member)
            named = "generating, by member" if i == 0 and member is report.finished[0] else None
            plot.barh(i, took, left=left, height=0.55, color=theme.series[0], label=named,
                      edgecolor=theme.paper, linewidth=0.5)  # fmt: skip
            left += took
    plot.set_yticks(range(len(rows)), [name for name, _ in rows])
    plot.set_ylim(len(rows) - 0.5, -0.5)
    plot.spines[["top", "right", "left"]].set_visible(False)
    plot.tick_params(left=False)
    plot.set_xlabel("seconds")
    _legend(plot, theme)
    return _png(figure)


# ------------------------------------------------------------------------------------ paper


def _canvas(
    num_rows: int, num_columns: int, size: tuple[float, float], theme: Theme
) -> tuple[Any, list[Any]]:
    """A figure in the theme's colours and its plots, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=144, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    plots = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for plot in plots:
        plot.set_facecolor(theme.paper)
        plot.tick_params(colors=theme.ink, labelsize=8)
        plot.xaxis.label.set_color(theme.ink)
        plot.yaxis.label.set_color(theme.ink)
        for spine in plot.spines.values():
            spine.set_color(theme.faint)
    return figure, plots


def _legend(plot: Any, theme: Theme) -> None:
    """The names of the series, above the plot."""
    plot.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8, labelcolor=theme.ink
    )


def _png(figure: Any) -> bytes:
    """The figure as a file, the same for the same figure."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _is_number(value: Value) -> bool:
    """Whether a value has a place on a scale."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at_level(level: Value, index: int) -> float:
    """Where a level is on its axis: numbers by their size, others by their order."""
    return float(level) if _is_number(level) else float(index)  # type: ignore[arg-type]
