"""Charts as inline SVG: curves over a logarithmic axis, and a roofline. Colours are the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
OURS, OTHERS = range(3), range(3, 16)  # colours: variables --c0 ... of the page
MARKS = ("circle", "square", "triangle", "diamond")


@dataclass
class Curve:
    """A named curve; ours are drawn on top of others, thicker."""

    label: str
    points: list[tuple[float, float]]
    colour: int
    ours: bool = False


@dataclass
class Roof:
    """A limit: operations a second, or bytes a second of a level of memory."""

    label: str
    value: float
    reads: bool


class Axis:
    """Places on one axis, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, *, logarithmic: bool) -> None:
        self.low, self.high, self.start, self.end, self.logarithmic = low, high, start, end, logarithmic

    def __call__(self, value: float) -> float:
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low) if self.high > self.low else 0.5
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)


def ticks(top: float) -> list[float]:
    """Round numbers from 0 to at least `top`, four to nine of them."""
    unit = 10.0 ** math.floor(math.log10(top)) if top > 0 else 1.0
    step = next(unit * part for part in (0.2, 0.5, 1, 2) if top / (unit * part) <= 7)
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def number(value: float) -> str:
    """A short label."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * factor or (value >= factor and value % factor == 0):
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.5g}"


def mark(x: float, y: float, colour: int, title: str, *, ours: bool) -> str:
    """A point, whose shape tells curves apart that a reader's eye sees in one colour."""
    r = 4.5 if ours else 3.5
    shapes = {
        "circle": f'<circle cx="{x}" cy="{y}" r="{r}"/>',
        "square": f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>',
        "triangle": f'<path d="M{x} {y - r * 1.2:.1f}L{x + r * 1.1:.1f} {y + r:.1f}H{x - r * 1.1:.1f}Z"/>',
        "diamond": f'<path d="M{x} {y - r * 1.3:.1f}L{x + r * 1.1:.1f} {y}L{x} {y + r * 1.3:.1f}L{x - r * 1.1:.1f} {y}Z"/>',
    }
    shape = shapes[MARKS[colour % len(MARKS)]]
    return f'<g fill="var(--c{colour})">{shape[:-2]}><title>{escape(title)}</title>{_closing(shape)}</g>'


def _closing(shape: str) -> str:
    return f"</{shape[1:].split()[0]}>"


def _decades(low: float, high: float) -> list[float]:
    return [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _frame(
    title: str, x_name: str, y_name: str, x_ticks: Iterable[tuple[float, str]], y_ticks: Iterable[tuple[float, str]]
) -> list[str]:
    """The picture's start: grid, tick labels and names of the axes."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y, text in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x, text in x_ticks:
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
    )
    parts.append(f'<text class="axis" x="{LEFT + 5}" y="{TOP + 10}">{escape(y_name)}</text>')
    return parts


def curves(title: str, x_name: str, y_name: str, some: Sequence[Curve], roofs: Sequence[tuple[str, float]] = ()) -> str:
    """Curves over a logarithmic x; roofs are dashed lines, drawn where they are within reach."""
    xs = sorted({x for curve in some for x, _ in curve.points})
    highest = max(y for curve in some for _, y in curve.points)
    near = [(label, value) for label, value in roofs if value <= 1.6 * highest]
    marks = ticks(max([highest * 1.06, *(value * 1.04 for _, value in near)]))
    x_axis = Axis(xs[0], xs[-1], LEFT + 22, WIDTH - RIGHT - 22, logarithmic=True)
    y_axis = Axis(0, marks[-1], HEIGHT - BOTTOM, TOP, logarithmic=False)
    x_marks: list[tuple[float, str]] = []
    for x in xs:
        if not x_marks or x_axis(x) - x_marks[-1][0] > 40:  # names that would run into each other are left out
            x_marks.append((x_axis(x), number(x)))
    parts = _frame(title, x_name, y_name, x_marks, [(y_axis(y), number(y)) for y in marks])
    for label, value in near:
        y = y_axis(value)
        parts.append(f'<line class="roof" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="roof-name" x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    for curve in sorted(some, key=lambda c: c.ours):
        path = " ".join(f"{x_axis(x)},{y_axis(y)}" for x, y in curve.points)
        kind = "ours" if curve.ours else "peer"
        parts.append(f'<polyline class="{kind}" stroke="var(--c{curve.colour})" points="{path}"/>')
        for x, y in curve.points:
            text = f"{curve.label}, n = {x:g}: {y:.3g} {y_name}"
            parts.append(mark(x_axis(x), y_axis(y), curve.colour, text, ours=curve.ours))
    return "".join([*parts, "</svg>"])


def roofline(title: str, roofs: Sequence[Roof], points: Sequence[tuple[str, float, float, int]]) -> str:
    """Operations a second over operations a byte, both logarithmic; points are (label, intensity, rate, colour)."""
    tops = [roof.value for roof in roofs if not roof.reads]
    reads = [roof for roof in roofs if roof.reads]
    x_low = 10.0 ** math.floor(math.log10(min(p[1] for p in points)))
    x_high = 10.0 ** math.ceil(math.log10(max([p[1] for p in points] + [max(tops) / r.value for r in reads])))
    y_low = 10.0 ** math.floor(math.log10(min(p[2] for p in points)))
    y_high = 10.0 ** math.ceil(math.log10(max(tops)))
    x_axis = Axis(x_low, x_high, LEFT, WIDTH - RIGHT, logarithmic=True)
    y_axis = Axis(y_low, y_high, HEIGHT - BOTTOM, TOP, logarithmic=True)
    parts = _frame(
        title,
        "FLOP / byte",
        "GFLOP/s",
        [(x_axis(x), number(x)) for x in _decades(x_low, x_high)],
        [(y_axis(y), number(y / 1e9)) for y in _decades(y_low, y_high)],
    )
    for roof in roofs:
        if roof.reads:
            left, right = max(x_low, y_low / roof.value), min(max(tops) / roof.value, x_high)
            ends = [(left, left * roof.value), (right, right * roof.value)]
            x_start, y_start, x_end, y_end = (f(v) for end in ends for f, v in zip((x_axis, y_axis), end))
            x, y, anchor = x_start + 6, y_start - 4, "start"
            turn = f' transform="rotate({math.degrees(math.atan2(y_end - y_start, x_end - x_start)):.1f} {x_start} {y_start})"'
        else:
            ends = [
                (max(x_low, min((roof.value / r.value for r in reads), default=x_low)), roof.value),
                (x_high, roof.value),
            ]
            x, y, turn, anchor = WIDTH - RIGHT - 4, y_axis(roof.value) - 4, "", "end"
        path = " ".join(f"{x_axis(x)},{y_axis(y)}" for x, y in ends)
        parts.append(f'<polyline class="roof" points="{path}"/>')
        parts.append(
            f'<text class="roof-name" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(roof.label)}</text>'
        )
    for label, intensity, rate, colour in points:
        text = f"{label}: {rate / 1e9:.3g} GFLOP/s at {intensity:.3g} FLOP/byte"
        parts.append(mark(x_axis(intensity), y_axis(rate), colour, text, ours=False))
    return "".join([*parts, "</svg>"])


def legend(items: Iterable[tuple[str, int]]) -> str:
    """Names of the curves with their marks."""
    parts = [
        f'<span><svg class="key" viewBox="0 0 12 12">{mark(6, 6, colour, label, ours=False)}</svg>{escape(label)}</span>'
        for label, colour in items
    ]
    return f'<p class="legend">{"".join(parts)}</p>'
