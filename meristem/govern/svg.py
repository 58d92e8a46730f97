"""Plots as inline SVG: curves, forest plots and bars, coloured by CSS variables so that dark mode and print just work.

Every figure has role="img", a title and a description, so a screen reader gets the numbers that the eye gets. Nothing
is drawn by a script and nothing is fetched. All text is escaped by `markupsafe.Markup.format`.
"""
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 860
Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A curve; `style` is a CSS class (faint, main, second, dots)."""

    name: str
    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Band:
    """A forecast at one x: a point with an interval where one is known."""

    name: str
    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of a forest plot: a value with its interval, and marks to read it against."""

    label: str
    style: str
    value: float
    low: float
    high: float
    text: str
    baseline: float | None = None
    ceiling: float | None = None


def curves(title: str, lines: Sequence[Line], x_name: str, y_name: str, band: Band | None = None, *,
           y_range: tuple[float, float] | None = None, x_text: Format = lambda x: f"{x:,.0f}",
           y_text: Format = lambda y: f"{y:g}", height: int = 300) -> Markup:
    """Curves over a common x; each is drawn from where it first falls into `y_range`."""
    left, right, top, bottom = 52, WIDTH - (44 if band else 16), 14, height - 46
    points = [p for line in lines for p in line.points]
    if not points:
        return Markup("")
    xs = [p[0] for p in points] + ([band.x] if band else [])
    ys = [p[1] for p in points] + [v for b in (band,) if b for v in (b.value, b.low, b.high) if v is not None]
    low, high = y_range or (min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    sx = _scale(x_low, x_high, left, right)
    sy = _scale(low, high, bottom, top)
    out = []
    for y in (y for y in ticks(low, high, 5) if low <= y <= high):
        mark = Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                      '<text class="tick" x="{3}" y="{4}" text-anchor="end">{5}</text>')
        out.append(mark.format(left, right, _n(sy(y)), left - 8, _n(sy(y) + 4), y_text(y)))
    for x in ticks(x_low, x_high, 6):
        if x_low <= x <= x_high:
            out.append(Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>')
                       .format(_n(sx(x)), bottom + 18, x_text(x)))
    for line in lines:
        entered = itertools.dropwhile(lambda point: point[1] > high, line.points)
        inside = [(sx(x), sy(min(max(y, low), high))) for x, y in entered]
        if line.style == "dots":
            out += [Markup('<circle class="dots" cx="{}" cy="{}" r="4"/>').format(_n(x), _n(y)) for x, y in inside]
        path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(inside))
        out.append(Markup('<path class="curve {}" d="{}"/>').format(line.style, path))
    if band:
        x, y = sx(band.x) + 22, sy(min(max(band.value, low), high))
        if band.low is not None and band.high is not None:
            out.append(Markup('<line class="whisker forecast" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
                       .format(_n(x), _n(sy(max(band.low, low))), _n(sy(min(band.high, high)))))
        out.append(Markup('<path class="forecast" d="M{0} {1}l6 6l-6 6l-6 -6z"/>').format(_n(x), _n(y - 6)))
    out.append(Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>')
               .format((left + right) / 2, height - 6, x_name))
    last = "; ".join(f"{line.name}: from {y_text(line.points[0][1])} to {y_text(line.points[-1][1])}"
                     for line in lines if line.points)
    about = f"{y_name} by {x_name}. {last}." + (f" {band.name}: {y_text(band.value)}." if band else "")
    names = [(line.name, line.style) for line in lines if line.points] + ([(band.name, "forecast")] if band else [])
    return _figure(title, about, y_name, height, out, names)


def forest(title: str, rows: Sequence[Row], axis: str, text: Format, *, from_zero: bool) -> Markup:
    """Values with 95 % whiskers over one axis; a bar marks the baseline, a ring what human text scores."""
    if not rows:
        return Markup("")
    left, right, top, step = 220, WIDTH - 110, 12, 36
    height = top + step * len(rows) + 44
    ends = [v for r in rows for v in (r.low, r.high, r.baseline, r.ceiling) if v is not None]
    low, high = 0.0 if from_zero else min(ends), max(ends)
    marks = ticks(low, high + (high - low) * 0.04, 5)
    low, high = min(low, marks[0]), max(high, marks[-1])
    sx, floor = _scale(low, high, left, right), top + step * len(rows)
    out = []
    for x in marks:
        out.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text class="tick" x="{0}" y="{3}" '
                          'text-anchor="middle">{4}</text>').format(_n(sx(x)), top, floor, floor + 18, text(x)))
    for i, row in enumerate(rows):
        y = top + step * i + step / 2
        out.append(Markup('<text class="label" x="0" y="{}">{}</text>').format(_n(y + 5), row.label))
        if row.baseline is not None:
            out.append(Markup('<line class="baseline" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
                       .format(_n(sx(row.baseline)), _n(y - 11), _n(y + 11)))
        if row.ceiling is not None:
            out.append(Markup('<circle class="ceiling" cx="{}" cy="{}" r="6"/>').format(_n(sx(row.ceiling)), _n(y)))
        out.append(Markup('<line class="whisker {0}" x1="{1}" x2="{2}" y1="{3}" y2="{3}"/>'
                          '<circle class="point {0}" cx="{4}" cy="{3}" r="5.5"/>'
                          '<text class="value" x="{5}" y="{6}" text-anchor="end">{7}</text>')
                   .format(row.style, _n(sx(row.low)), _n(sx(row.high)), _n(y), _n(sx(row.value)), WIDTH, _n(y + 5),
                           row.text))
    about = "; ".join(f"{r.label} {r.text} (95 % interval {text(r.low)} to {text(r.high)})"
                      + (f", baseline {text(r.baseline)}" if r.baseline is not None else "") for r in rows)
    names = [("5-gram or constant baseline", "baseline")] if any(r.baseline is not None for r in rows) else []
    names += [("human text", "ceiling")] if any(r.ceiling is not None for r in rows) else []
    return _figure(title, about + ".", axis, height, out, names)


STYLE = """text { font: 12px sans-serif; fill: #5b6a63 } .grid { stroke: #dde4e0 } .label { fill: #16211c }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round } .curve.faint { stroke: #9fd3ba }
.main { stroke: #157a54 }
.curve.main { stroke: #157a54 } .curve.second { stroke: #3563c9 } .curve.dots { stroke: none }
circle.dots { fill: #fff; stroke: #3563c9; stroke-width: 2 } .whisker { stroke: #b25e09; stroke-width: 2.4 }
.forecast { fill: #b25e09 } .point { fill: #157a54 } .baseline, .ceiling { stroke: #5b6a63; fill: none }"""


def standalone(figure: Markup) -> str:
    """The drawing of a figure as an SVG file of its own, light on white, for a page that has no style sheet."""
    drawing = str(figure)[str(figure).index("<svg"): str(figure).index("</svg>") + len("</svg>")]
    head, _, rest = drawing.partition(">")
    return (f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>{rest}\n')


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover low..high in about so many steps."""
    span = high - low or abs(high) or 1.0
    raw = span / about
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    count = math.ceil((high - first * step) / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(count + 1)]


def thin(points: Sequence[Point], most: int = 360) -> list[Point]:
    """At most so many points: means of equal runs, so a page of a million steps stays small."""
    size = math.ceil(len(points) / most) if points else 1
    runs = [points[i:i + size] for i in range(0, len(points), size)]
    return [(sum(p[0] for p in run) / len(run), sum(p[1] for p in run) / len(run)) for run in runs]


def smooth(points: Sequence[Point], share: float = 0.03) -> list[Point]:
    """A centred mean over about `share` of the curve; the window shrinks at both ends, so nothing lags."""
    reach = max(1, round(share * len(points) / 2))
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    out = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        out.append((x, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return out


def _figure(title: str, about: str, y_name: str, height: float, body: Sequence[Markup],
            names: Sequence[tuple[str, str]]) -> Markup:
    key = Markup('<span class="key"><i class="{}"></i>{}</span>')
    keys = Markup("").join(key.format(style, name) for name, style in names)
    caption = Markup('<figcaption><b>{}</b> <span class="unit">{}</span><span class="keys">{}</span></figcaption>')
    drawing = Markup('<svg viewBox="0 0 {0} {1}" role="img" aria-label="{2}. {3}"><title>{2}</title><desc>{3}</desc>'
                     '{4}</svg>')
    return Markup('<figure>{}<div class="plot">{}</div></figure>').format(
        caption.format(title, y_name, keys),
        drawing.format(WIDTH, round(height), title, about, Markup("").join(body)))


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda v: start + (v - low) / span * (stop - start)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
