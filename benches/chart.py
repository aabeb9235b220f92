"""Draws docs/benchmarks.svg: for each row and loop a mark at its speed relative to asyncio's.

`run.py` calls `svg` and writes what it returns. Follows the reader's light or dark scheme. Never
shows a row that the report does not.
"""

import math
from collections.abc import Sequence
from html import escape

from loops import NAMES, OURS
from rounds import Row

WIDTH, LEFT, RIGHT, TOP, ROW_HEIGHT, BOTTOM = 980, 370, 884, 84, 26, 34
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff } .band { fill: #f6f8fa } .faint { fill: #59636e }
  .title { font-size: 17px; font-weight: 600 } .strong { font-weight: 600 }
  .grid { stroke: #d1d9e0 } .one { stroke: #59636e }
  .asyncio { fill: #7d8590 } .uvloop { fill: #3b82f6 } .rloop { fill: #c26a00 }
  .rsloop { fill: #9a5cf0 } .aioxide { fill: none; stroke: #d6336c; stroke-width: 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #0d1117 } .band { fill: #161b22 }
    .faint { fill: #9198a1 } .grid { stroke: #30363d } .one { stroke: #9198a1 }
  }
"""


def svg(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The chart, as text."""
    speeds = {row.case.title: _speeds(row, names) for row in rows if row.case.has_ratio}
    speeds = {title: speed for title, speed in speeds.items() if speed}
    ticks = _ticks([figure for speed in speeds.values() for figure in speed.values()])
    height = TOP + ROW_HEIGHT * len(speeds) + BOTTOM
    title = "Speed relative to asyncio"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="20" y="30">{title}</text>',
        '<text class="faint" x="20" y="50">asyncio = 1, further right is better; '
        "memory: how many times smaller</text>",
    ]
    parts += _legend([name for name in NAMES if name in names])
    if OURS in names:
        parts.append(
            f'<text class="faint" x="{WIDTH - 20}" y="{TOP - 12}" text-anchor="end">{OURS}</text>'
        )
    parts += _bands(len(speeds))
    parts += _grid(ticks, height)
    for index, (label, speed) in enumerate(speeds.items()):
        parts += _row(label, speed, TOP + ROW_HEIGHT * index + ROW_HEIGHT / 2, ticks)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _speeds(row: Row, names: Sequence[str]) -> dict[str, float]:
    """Each loop's speed as a multiple of asyncio's."""
    reference = row.median("asyncio")
    if reference is None:
        return {}
    figures = {name: row.median(name) for name in names}
    return {name: reference / figure for name, figure in figures.items() if figure}


def _ticks(speeds: Sequence[float]) -> list[float]:
    """Powers of two around all speeds."""
    low = math.floor(math.log2(min([*speeds, 1])))
    high = math.ceil(math.log2(max([*speeds, 2])))
    return [2.0**power for power in range(low, high + 1)]


def _x(speed: float, ticks: Sequence[float]) -> float:
    low, high = math.log2(ticks[0]), math.log2(ticks[-1])
    return LEFT + (RIGHT - LEFT) * (math.log2(speed) - low) / (high - low)


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        x = LEFT + 100 * index
        parts += [_mark(name, x, 26), f'<text x="{x + 12}" y="30">{escape(name)}</text>']
    return parts


def _bands(count: int) -> list[str]:
    return [
        f'<rect class="band" x="12" y="{TOP + ROW_HEIGHT * index}" width="{WIDTH - 24}" '
        f'height="{ROW_HEIGHT}"/>'
        for index in range(0, count, 2)
    ]


def _grid(ticks: Sequence[float], height: int) -> list[str]:
    parts = []
    for tick in ticks:
        x = _x(tick, ticks)
        parts.append(
            f'<line class="{"one" if tick == 1 else "grid"}" x1="{x:.1f}" y1="{TOP - 6}" '
            f'x2="{x:.1f}" y2="{height - BOTTOM + 6}"/>'
        )
        parts += [
            f'<text class="faint" x="{x:.1f}" y="{y}" text-anchor="middle">{tick:g}×</text>'
            for y in (TOP - 12, height - BOTTOM + 22)
        ]
    return parts


def _row(label: str, speeds: dict[str, float], y: float, ticks: Sequence[float]) -> list[str]:
    parts = [f'<text x="{LEFT - 14}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>']
    parts += [_mark(name, _x(speeds[name], ticks), y) for name in NAMES if name in speeds]
    if OURS in speeds:
        parts.append(
            f'<text class="strong" x="{WIDTH - 20}" y="{y + 4:.1f}" text-anchor="end">'
            f"{speeds[OURS]:.2f}×</text>"
        )
    return parts


def _mark(name: str, x: float, y: float) -> str:
    """A shape of its own for each loop, so that colour is not needed to tell them apart."""
    shapes = {
        "asyncio": "M-1.5-6h3v12h-3z",
        "uvloop": "M-4.5-4.5h9v9h-9z",
        "rloop": "M0-6L5.5 4.5h-11z",
        "rsloop": "M0-5.5L5.5 0 0 5.5-5.5 0z",
        # A ring: a peer at the same speed stays visible inside.
        OURS: "M-7.5 0a7.5 7.5 0 1 0 15 0a7.5 7.5 0 1 0-15 0z",
    }
    return f'<path class="{name}" transform="translate({x:.1f} {y:.1f})" d="{shapes[name]}"/>'
