"""Bar charts as SVG: one panel a scenario, one bar a contender; readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from .results import number

__all__ = ["Panel", "draw"]

WIDTH, MARGIN, LABELS, VALUES = 760, 20, 200, 130  # VALUES: room for the number behind the longest bar
BAR, STEP, PANEL_HEAD, PANEL_GAP, TOP = 14, 21, 26, 16, 58

STYLE = """
  .card { fill: #ffffff; stroke: #d9dee5 } text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 16px; font-weight: 600; fill: #1f2328 } .head { font-weight: 600; fill: #1f2328 }
  .name { text-anchor: end } .own { font-weight: 600; fill: #1f2328 }
  .ours { fill: #2a78d6 } .peer { fill: #b3bcc8 } .limit { fill: #dfe4ea }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1a1d21; stroke: #343a42 } text { fill: #9aa4b0 }
    .title, .head, .own { fill: #eef1f4 }
    .ours { fill: #4c93e6 } .peer { fill: #5f6975 } .limit { fill: #3d444d }
  }
"""


class Panel(NamedTuple):
    """``bars``: name and value, None where there is none."""

    title: str
    bars: Sequence[tuple[str, float | None]]


def draw(title: str, note: str, panels: Sequence[Panel], kinds: Mapping[str, str]) -> str:
    """Return the picture. ``kinds`` says of each name whether it is "ours", "peer" or "limit"."""
    parts: list[str] = []
    y = TOP
    for panel in panels:
        parts.append(_text(MARGIN, y + 12, panel.title, "head"))
        y += PANEL_HEAD
        longest = max((value for _, value in panel.bars if value), default=1.0)
        for name, value in panel.bars:
            parts += _bar(y, name, value, longest, kinds.get(name, "peer"))
            y += STEP
        y += PANEL_GAP
    height = y
    frame = f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    heading = [_text(MARGIN, 28, title, "title"), _text(MARGIN, 46, _cut(note, 110), "")]
    body = "\n".join([f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", frame, *heading, *parts])
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>\n{body}\n</svg>\n'


def _bar(y: int, name: str, value: float | None, longest: float, kind: str) -> list[str]:
    own = " own" if kind == "ours" else ""
    room = WIDTH - 2 * MARGIN - LABELS - VALUES
    length = max(1.0, room * value / longest) if value else 0.0
    left = MARGIN + LABELS
    parts = [_text(left - 8, y + 11, name, "name" + own)]
    if length:
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
    parts.append(_text(left + length + 6, y + 11, number(value), own.strip()))
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y}"{attribute}>{escape(text)}</text>'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
