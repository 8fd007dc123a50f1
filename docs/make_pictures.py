"""Draw the pictures of how-it-works.md; run it to write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import attrs

FOLDER: Final = Path(__file__).parent / "pictures"
WIDTH: Final = 760
# The paper is part of the picture, so that it can be read on every background.
STYLE: Final = """
  svg { font: 14px system-ui, sans-serif }
  .paper { fill: #ffffff } .ink { fill: #1b1f24 } .soft { fill: #57606a }
  .line { stroke: #57606a; fill: none } .box { stroke: #57606a }
  .a { fill: #dbeafe } .b { fill: #dcfce7 } .c { fill: #fef3c7 } .d { fill: #fee2e2 }
  .e { fill: #eaeef2 } .small { font-size: 12px } .strong { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #16191d } .ink { fill: #e6edf3 } .soft { fill: #9aa4af }
    .line, .box { stroke: #9aa4af }
    .a { fill: #1e3a5f } .b { fill: #14432a } .c { fill: #4d3b0b } .d { fill: #5b1d1d }
    .e { fill: #2b3138 }
  }
"""


@attrs.define
class Drawing:
    """An SVG that grows shape by shape.

    Attributes:
        title: What it shows, for screen readers too.
        desc: The same in whole sentences, for who does not see it.
        height: In pixels.
    """

    title: str
    desc: str
    height: int
    shapes: list[str] = attrs.field(factory=list)

    def box(self, x: int, y: int, width: int, kind: str, *lines: str) -> None:
        """Draw a box with one or two centred lines of text."""
        self.shapes.append(
            f'<rect class="box {kind}" x="{x}" y="{y}" width="{width}" height="48"/>'
        )
        first = y + (29 if len(lines) == 1 else 21)
        for number, line in enumerate(lines):
            style = "small soft" if number else "ink"
            middle, base = x + width // 2, first + 18 * number
            self.text(middle, base, line, style, anchor="middle")

    def text(
        self, x: int, y: int, text: str, style: str = "ink", *, anchor: str = "start"
    ) -> None:
        """Write a line of text."""
        self.shapes.append(
            f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def path(self, points: str, *, arrow: bool = False, dashed: bool = False) -> None:
        """Draw a line along *points*, in SVG's own letters."""
        end = ' marker-end="url(#arrow)"' if arrow else ""
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self.shapes.append(f'<path class="line" d="{points}"{end}{dash}/>')

    def svg(self) -> str:
        """Put it together."""
        shapes = "\n".join(self.shapes)
        return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}"
  width="{WIDTH}" role="img" aria-labelledby="title desc">
<title id="title">{escape(self.title)}</title>
<desc id="desc">{escape(self.desc)}</desc>
<style>{STYLE}</style>
<defs>
<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
  orient="auto"><path class="soft" d="M0 0 8 4 0 8z"/></marker>
</defs>
<rect class="paper" width="{WIDTH}" height="{self.height}" rx="8"/>
{shapes}
</svg>
"""


def draw_envelope() -> Drawing:
    """Draw a request and its reply, closed and opened (protocol.md 1.3 and 1.5)."""
    drawing = Drawing(
        "The envelopes of a request and its reply",
        "A request is a version byte, an IV of 12 bytes, the encrypted part and a tag "
        "of 16 bytes. The encrypted part holds the time (8 bytes), a nonce (8 bytes) "
        "and JSON. A reply is the same without the version byte; it holds the "
        "operator's time, the nonce of the request, and JSON. Both are sealed by "
        "AES-256-GCM with the client secret.",
        422,
    )
    # First, so that it passes behind the encrypted part.
    drawing.path("M356 190 V346", arrow=True, dashed=True)
    drawing.text(366, 214, "must be equal", "small soft")
    drawing.text(24, 34, "Request", "ink strong")
    drawing.text(736, 34, "POST, Authorization: Bearer <API key>", "soft", anchor="end")
    drawing.box(24, 48, 76, "e", "0x01", "1 byte")
    drawing.box(100, 48, 120, "e", "IV", "12, random")
    drawing.box(220, 48, 396, "a", "encrypted: AES-256-GCM, client secret")
    drawing.box(616, 48, 120, "e", "tag", "16")
    _open(drawing, 220, 96, "time now, ms", "nonce", "8, random", "JSON of the call")
    drawing.text(24, 248, "Reply", "ink strong")
    drawing.text(
        736, 248, "HTTP 200 alone; a refusal is not sealed", "soft", anchor="end"
    )
    drawing.box(24, 262, 120, "e", "IV", "12, random")
    drawing.box(144, 262, 472, "a", "encrypted: AES-256-GCM, client secret")
    drawing.box(616, 262, 120, "e", "tag", "16")
    texts = ("operator's time, ms", "nonce", "8, the same", "JSON: body, status")
    _open(drawing, 144, 310, *texts)
    return drawing


def _open(drawing: Drawing, x: int, y: int, *texts: str) -> None:
    """Draw what is in the encrypted part whose lower left corner is given."""
    time, nonce, size, json = texts
    drawing.path(f"M{x} {y} L100 {y + 40} M616 {y} L736 {y + 40}", dashed=True)
    drawing.box(100, y + 40, 180, "b", time, "8")
    drawing.box(280, y + 40, 152, "c", nonce, size)
    drawing.box(432, y + 40, 304, "b", json, "UTF-8")


def draw_lifecycle() -> Drawing:
    """Draw the states of identity tokens over time (protocol.md 2.1 and 2.2)."""
    drawing = Drawing(
        "The life of identity tokens",
        "Generated tokens are fresh until refresh_from, then due: usable, and to be "
        "refreshed. After identity_expires they are not usable, but a refresh still "
        "gives new ones. After refresh_expires they are dead, and only a new generate "
        "helps. A refresh answers new tokens, or that the person has opted out.",
        392,
    )
    drawing.text(24, 34, "token/generate", "ink strong")
    drawing.path("M84 44 V76", arrow=True)
    for x, width, kind, name, what in (
        (24, 160, "b", "FRESH", "use"),
        (184, 170, "c", "DUE", "use, and refresh"),
        (354, 222, "d", "EXPIRED_REFRESHABLE", "refresh; do not use"),
        (576, 160, "e", "DEAD", "generate anew"),
    ):
        drawing.box(x, 80, width, kind, name, what)
    for x, name, when in (
        (184, "refresh_from", "1 hour"),
        (354, "identity_expires", "3 days"),
        (576, "refresh_expires", "30 days"),
    ):
        drawing.path(f"M{x} 128 V148")
        drawing.text(x, 164, name, "ink", anchor="middle")
        drawing.text(x, 182, when, "small soft", anchor="middle")
    drawing.path("M465 128 V210 H269")
    drawing.path("M269 128 V238", arrow=True)
    drawing.box(184, 242, 170, "a", "token/refresh", "with the refresh token")
    drawing.path("M184 266 H60 V132", arrow=True)
    drawing.text(70, 256, "new tokens", "small ink")
    drawing.path("M354 266 H534", arrow=True)
    drawing.text(368, 256, "has opted out", "small ink")
    drawing.box(538, 242, 198, "e", "OPTED_OUT", "drop them; do not ask again")
    drawing.path("M24 336 H736", dashed=True)
    drawing.text(
        24,
        360,
        "An outage changes nothing before identity_expires: the tokens are served "
        "as they are.",
        "small soft",
    )
    return drawing


PICTURES: Final[dict[str, Callable[[], Drawing]]] = {
    "envelope.svg": draw_envelope,
    "token-lifecycle.svg": draw_lifecycle,
}


def main() -> None:
    """Write them all."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
