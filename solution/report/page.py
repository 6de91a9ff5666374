"""The pieces of the report's page: HTML and SVG text, everything in one file, no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

_CHART = (340, 150)  # px
_FLOOR = 118  # px from the top to the axis
# The browser itself refuses whatever the page would fetch from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Card:
    """One row of a gallery: its pictures as data URIs (None: cannot be shown), its texts and what became of it."""

    pictures: Sequence[str | None]
    before: str
    after: str
    remark: str


def page(title: str, about: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page; ``sections`` are (heading, HTML) pairs."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#part-{place}">{escape(name)}</a>' for place, (name, _) in enumerate(sections))
    body = "".join(
        f'<section id="part-{place}"><h2>{escape(name)}</h2>{content}</section>'
        for place, (name, content) in enumerate(sections)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main><h1>{escape(title)}</h1><nav>{links}</nav>{body}"
        f"<footer>{escape(about)}</footer></main></body></html>\n"
    )


def tiles(numbers: Mapping[str, int]) -> str:
    """Large figures with their names."""
    cells = "".join(
        f'<div class="tile"><b>{count:,}</b><span>{escape(name)}</span></div>' for name, count in numbers.items()
    )
    return f'<div class="tiles">{cells}</div>'


def funnel_table(steps: Sequence[Mapping[str, Any]]) -> str:
    """One line a step with its counts and a bar of what it kept, dropped and failed."""
    widest = max(step["rows_in"] + step["created"] for step in steps) or 1
    lines = []
    for step in steps:
        bar = "".join(
            f'<i class="{state}" style="width:{100 * step[state] / widest:.3f}%"></i>'
            for state in ("kept", "dropped", "failed")
        )
        reasons = sorted(step["reasons"].items(), key=lambda item: -item[1])[:4]
        why = "".join(f"<small>{count:,} {escape(reason)}</small>" for reason, count in reasons)
        counts = "".join(
            f"<td>{step[key]:,}</td>" if step[key] else "<td></td>"
            for key in ("dropped", "failed", "created", "rewritten")
        )
        lines.append(
            f'<tr><td>{escape(step["name"])}{why}</td><td class="bar"><div class="track">{bar}</div></td>'
            f"<td>{step['kept']:,}</td>{counts}<td>{step['seconds']:,.1f}</td></tr>"
        )
    names = ("operator", "", "kept", "dropped", "failed", "created", "rewritten", "seconds")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="card"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def legend() -> str:
    """What the colours of charts and bars mean."""
    return (
        '<div class="legend"><span><i class="kept"></i>kept</span><span><i class="dropped"></i>dropped</span>'
        "<span>- - limit</span></div>"
    )


def chart(name: str, scores: Mapping[str, Any]) -> str:
    """A histogram of one statistic (see `histogram`): kept and dropped rows stacked, limits as lines."""
    width, height = _CHART
    low, high = scores["low"], scores["high"]
    totals = [kept + dropped for kept, dropped in zip(scores["kept"], scores["dropped"], strict=True)]
    step, tallest = width / len(totals), max(totals)
    bars = []
    for place, (kept, total) in enumerate(zip(scores["kept"], totals, strict=True)):
        top, middle = (_FLOOR - 92 * count / tallest for count in (total, kept))
        for state, start, end in (("kept", middle, _FLOOR), ("dropped", top, middle)):
            if end > start:
                bars.append(
                    f'<rect class="{state}" x="{place * step:.1f}" y="{start:.1f}" width="{step - 0.7:.1f}" '
                    f'height="{end - start:.1f}"/>'
                )
    lines = []
    for order, (limit_name, limit) in enumerate(scores["limits"].items()):
        if low <= limit <= high:
            x = width * (limit - low) / (high - low)
            end = ' text-anchor="end"' if x > width / 2 else ""
            lines.append(
                f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{12 + 12 * order}" y2="{_FLOOR}"/>'
                f'<text class="limit-name" x="{x + (-4 if end else 4):.1f}" y="{18 + 12 * order}"{end}>'
                f"{escape(limit_name)} {limit:g}</text>"
            )
    return (
        f'<div class="card"><h3>{escape(scores["stat"])}</h3><small>{escape(name)}</small>'
        f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(bars)}'
        f'<line class="axis" x1="0" x2="{width}" y1="{_FLOOR}" y2="{_FLOOR}"/>{"".join(lines)}'
        f'<text x="0" y="{_FLOOR + 16}">{low:.4g}</text>'
        f'<text x="{width}" y="{_FLOOR + 16}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{width / 2}" y="{_FLOOR + 16}" text-anchor="middle">{sum(totals):,} rows</text></svg></div>'
    )


def gallery(name: str, explanation: str, cards: Sequence[Card]) -> str:
    """Cards under a heading."""
    figures = []
    for card in cards:
        pictures = "".join(
            f'<img alt="" src="{picture}">' if picture else '<div class="lost">no picture</div>'
            for picture in card.pictures
        )
        texts = escape(card.after)
        if card.before != card.after:
            texts = f"<del>{escape(card.before)}</del><ins>{escape(card.after)}</ins>"
        figures.append(
            f'<figure><div class="pictures">{pictures}</div>'
            f"<figcaption>{texts}<small>{escape(card.remark)}</small></figcaption></figure>"
        )
    return f'<h3>{escape(name)}</h3><p>{escape(explanation)}</p><div class="gallery">{"".join(figures)}</div>'
