"""A run as one page of HTML that needs nothing else: charts, tables, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ruvector.bench import charts, peaks, tables, view
from ruvector.bench.results import OURS, Run

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --card: #f6f8fa; --line: #d1d9e0; --bad: #b42318;
  --c0: #0b5fd6; --c1: #58a6ff; --c2: #93c5fd; --c3: #c2410c; --c4: #9333ea; --c5: #15803d; --c6: #0e7490;
  --c7: #be185d; --c8: #4d7c0f; --c9: #6b7280; --c10: #7c2d12; --c11: #0f766e; --c12: #a21caf; --c13: #a16207; --c14: #475569;
  --c15: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --paper: #0d1117; --card: #161b22; --line: #3d444d;
  --bad: #ff8a80; --c0: #58a6ff; --c1: #a5d0ff; --c2: #cfe4ff; --c3: #ff9e64; --c4: #d2a8ff; --c5: #56d364;
  --c6: #39d0d8; --c7: #ff7eb6; --c8: #a3d65c; --c9: #9aa4af; --c10: #e08f70; --c11: #5fd3c4; --c12: #f0abfc; --c13: #fde047;
  --c14: #cbd5e1; --c15: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.8rem, 3vw, 2.5rem); max-width: 1500px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 0.3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 0.95rem; margin: 0 0 0.3rem; font-weight: 600; }
p { margin: 0.3rem 0; max-width: 75rem; } .soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 0.8rem; margin: 1rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem 1rem; flex: 1 1 9rem;
  max-width: 17rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem; }
svg { display: block; width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 0.7; } svg .axis { fill: var(--ink); }
svg polyline { fill: none; stroke-linejoin: round; } svg .ours { stroke-width: 2.6; } svg .peer { stroke-width: 1.3; }
svg .roof { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; } svg .roof-name { font-style: italic; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; font-size: 12.5px; color: var(--soft); margin: 0.3rem 0 0; }
.legend span { white-space: nowrap; } svg.key { display: inline-block; width: 12px; height: 12px; margin-right: 0.3rem;
  vertical-align: -1px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.35rem 0.7rem; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--card); font-weight: 600; } tr:last-child td { border-bottom: 0; }
td:last-child { white-space: normal; min-width: 15rem; }
td:first-child { font-family: ui-monospace, monospace; font-size: 12.5px; }
.short { color: var(--bad); font-weight: 600; } li { margin: 0.15rem 0; overflow-wrap: anywhere; }
"""


def table(headers: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table that scrolls on its own where the window is narrow."""

    def cell(text: str) -> str:
        bad = ' class="short"' if "short" in text or "WRONG" in text else ""
        return f"<td{bad}>{escape(text)}</td>"

    head = "".join(f"<th>{escape(text)}</th>" for text in headers)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in cells)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def colours(run: Run) -> dict[str, int]:
    """A colour for every participant, the same in all charts: ours first."""
    colour = {OURS + isa: charts.OURS[i % len(charts.OURS)] for i, isa in enumerate(run.isas)}
    others = dict.fromkeys(e.label for m in run.rows for e in m.peers())
    return colour | {label: charts.OTHERS[i % len(charts.OTHERS)] for i, label in enumerate(others)}


def _curves(run: Run, colour: dict[str, int]) -> list[str]:
    """A chart for every series of at least three rows and every number of threads."""
    series: dict[tuple[str, int], list[tuple[float, view.Line]]] = {}
    for x in view.lines(run):
        if x.row:
            title, at = x.row.series
            series.setdefault((title, x.threads), []).append((at, x))
    figures = []
    for (title, threads), points in series.items():
        if len(points) < 3:
            continue
        found: dict[str, list[tuple[float, float]]] = {}
        for at, x in sorted(points, key=lambda point: point[0]):
            for entry in x.measured.entries:
                if entry.best and not entry.wrong:
                    found.setdefault(entry.label, []).append((at, view.rate_of(x.measured, entry.best) / 1e9))
        if not found:
            continue
        some = [
            charts.Curve(label, found[label], colour[label], label.startswith(OURS))
            for label in colour
            if label in found
        ]
        roofs = []
        if not points[0][1].measured.reads:
            for isa in run.isas:
                roof = peaks.find(run.peaks, points[0][1].limit, isa, threads)
                roofs += [(f"peak, {isa}", roof / 1e9)] if roof else []
        name = f"{title}, {view.plural(threads)}"
        x_name = "elements" if points[0][1].row and points[0][1].row.kind == "softmax" else "keys"
        drawing = charts.curves(name, x_name, points[0][1].unit, some, roofs)
        figures.append(
            f"<figure><h3>{escape(name)}</h3>{drawing}{charts.legend((c.label, c.colour) for c in some)}</figure>"
        )
    return figures


def _rooflines(run: Run) -> list[str]:
    """For every number of threads: the limits of the best instruction set and our rows below them, coloured by group."""
    figures = []
    some = [x for x in view.lines(run) if x.measured.operations and x.measured.dtype == "float32"]
    groups = {group: charts.OTHERS[i % len(charts.OTHERS)] for i, group in enumerate(view.by_group(some))}
    for threads in run.threads:
        isa = run.isas[0]
        points = []
        for x in some:
            entry = x.measured.entry(OURS + isa)
            if x.threads == threads and entry and entry.best:
                rate, intensity = x.measured.operations / entry.best, x.measured.operations / x.measured.bytes
                points.append((x.name, intensity, rate, groups[view.group_of(x)]))
        roofs = []
        for what in ("float32", *peaks.LEVELS):
            value = peaks.find(run.peaks, what, isa, threads)
            if value:
                unit = "GFLOP/s" if what == "float32" else "GB/s"
                roofs.append(charts.Roof(f"{what} {value / 1e9:.0f} {unit}", value, what != "float32"))
        if points and any(not roof.reads for roof in roofs):
            drawn = {colour for *_, colour in points}
            name = f"roofline, float32, {isa}, {view.plural(threads)}"
            drawing = charts.roofline(name, roofs, points)
            figures.append(
                f"<figure><h3>{escape(name)}</h3>{drawing}{charts.legend((g, c) for g, c in groups.items() if c in drawn)}</figure>"
            )
    return figures


def _tiles(run: Run) -> str:
    """The figures to see first."""
    all_lines = view.lines(run)
    with_goals = [x for x in all_lines if x.row and view.goals(x.row, x.threads) != "-"]
    met = sum(not x.misses for x in with_goals)
    ahead = [x.cells[0].versus["best"] for x in all_lines if "best" in x.cells[0].versus]
    tiles = [(f"{met} of {len(with_goals)}", "rows with goals reach them")]
    if ahead:
        tiles.append((f"{sum(r >= 1 for r in ahead)} of {len(ahead)}", "rows not slower than any other library"))
    for isa in run.isas:
        for threads in run.threads:
            value = peaks.find(run.peaks, "float32", isa, threads)
            if value:
                tiles.append((f"{value / 1e9:.0f} GFLOP/s", f"float32 peak, {isa}, {view.plural(threads)}"))
    return '<div class="tiles">' + "".join(f"<div><b>{escape(a)}</b>{escape(b)}</div>" for a, b in tiles) + "</div>"


def page(run: Run) -> str:
    """The whole document."""
    here, colour = run.machine, colours(run)
    others = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()) if name != "ruvector")
    title = f"ruvector {here['ruvector']} on {here['cpu']}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{here['cpus']} CPUs, {escape(here['system'])} {escape(here['architecture'])}, Python {here['python']}; beside "
        f"{escape(others or 'no other library')}.</p>",
        f'<p class="soft">Measured {escape(" and ".join(run.dates or [run.date]))}. Times are the best of interleaved blocks; '
        "ratios are times of others over ours on the first instruction set; parts are of this machine's own limits, measured in "
        "the same run. Every call was checked against exact values.</p>",
        _tiles(run),
    ]
    figures = _rooflines(run) + _curves(run, colour)
    if figures:
        parts += ["<h2>Speed</h2>", '<div class="charts">', *figures, "</div>"]
    for group, some in view.by_group(view.lines(run)).items():
        parts += [f"<h2>{escape(group)}</h2>", table(*tables.speed(run, some))]
    for heading, content in (
        ("Threads", tables.scaling(run)),
        ("Calls in fresh processes", tables.fresh(run)),
        ("Growth with n", tables.growth(run)),
        ("Limits of the machine", tables.peaks(run)),
    ):
        if content[1]:
            parts += [f"<h2>{heading}</h2>", table(*content)]
    notes = tables.notes(run)
    if notes:
        parts += ["<h2>Left out, refused or wrong</h2><ul>", *(f"<li>{escape(text)}</li>" for text in notes), "</ul>"]
    return "".join([*parts, "</body></html>\n"])
