"""One page of HTML that needs nothing beside itself: ``whole``, and the parts it is made of."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template


def whole(title: str, subtitle: str, sections: Iterable[str], footer: str) -> str:
    """A whole file. Its style is in it, it has no script, and its policy forbids it to fetch anything.

    Args:
        title, subtitle, footer: plain text.
        sections: HTML.

    >>> "<h1>a &lt; b</h1>" in whole("a < b", "", [section("Rows", paragraph("Two."))], "")
    True
    """
    template = Template(files("twolayer.report").joinpath("page.html").read_text(encoding="utf-8"))
    plain = {"title": _text(title), "subtitle": _text(subtitle), "footer": _text(footer)}
    return template.substitute(plain, body="\n".join(sections))


def section(heading: str, *parts: str) -> str:
    """A heading, which is plain text, and what stands below it, which is HTML."""
    return "\n".join(["<section>", f"<h2>{_text(heading)}</h2>", *parts, "</section>"])


def paragraph(text: str, kind: str = "") -> str:
    """Plain text; of a kind that has a style: ``"quiet"`` or ``"remark"``."""
    return f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>"


def figure(svg: str, shown: str, caption: str, wide: bool = False) -> str:
    """A picture, what is drawn in it for whoever does not see it, and below it what it says.

    Args:
        svg: an ``<svg>`` element.
        shown, caption: plain text. A screen reader reads both, so that the second does not repeat the first.
        wide: whether it is scrolled, not shrunk, where there is no room.
    """
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{_text(shown)}" ', 1)
    kind = ' class="wide" tabindex="0"' if wide else ""
    return f"<figure><div{kind}>{named}</div><figcaption>{_text(caption)}</figcaption></figure>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text to the left, those of numbers, which begin with a digit or a sign everywhere, to the right."""
    cells = [[str(value) for value in row] for row in rows]
    kinds = [' class="number"' if all(_is_number(row[k]) for row in cells) else "" for k in range(len(header))]
    head = "".join(f"<th{kind}>{_text(name)}</th>" for name, kind in zip(header, kinds, strict=True))
    body = ["".join(f"<td{kind}>{_text(value)}</td>" for value, kind in zip(row, kinds, strict=True)) for row in cells]
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    return f'<div class="scrolls"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def facts(values: Mapping[str, str]) -> str:
    """Names and what they are; empty ones are left out."""
    pairs = (f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in values.items() if value)
    return f"<dl>{''.join(pairs)}</dl>"


def _text(plain: str) -> str:
    """As HTML, with a number and its per cent on one line."""
    return escape(plain).replace(" %", "&nbsp;%")


def _is_number(text: str) -> bool:
    return text.lstrip("−-")[:1].isdigit() or text in ("–", "")
