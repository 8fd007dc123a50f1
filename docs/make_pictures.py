"""Draw the pictures of the documentation: ``python docs/make_pictures.py`` writes them.

All are 400 px wide, so that their text can be read on a telephone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import attrs

FOLDER: Final = Path(__file__).parent / "pictures"
WIDTH: Final = 400
# The picture has its own background, so that it can be read on any page.
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
    """An SVG to which shapes are added.

    Attributes:
        title: What it shows; screen readers read it.
        desc: The same in whole sentences, for readers who cannot see it.
        height: In pixels.
        shapes: The SVG elements, in the order in which they are painted.
    """

    title: str
    desc: str
    height: int
    shapes: list[str] = attrs.field(factory=list)

    def box(self, x: int, y: int, width: int, kind: str, *lines: str) -> None:
        """Draw a box with one or two centered lines of text."""
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
        """Draw a line along *points*, which is the data of an SVG path."""
        end = ' marker-end="url(#arrow)"' if arrow else ""
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self.shapes.append(f'<path class="line" d="{points}"{end}{dash}/>')

    def svg(self) -> str:
        """Return the whole SVG."""
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
    """Draw the envelopes of a request and its reply (protocol.md 1.3 and 1.5)."""
    drawing = Drawing(
        "The envelopes of a request and its reply",
        "A request is a version byte, an IV of 12 bytes, the encrypted part and a tag "
        "of 16 bytes. The encrypted part is the time (8 bytes), a nonce (8 bytes) "
        "and JSON. A reply is the same without the version byte. It contains the "
        "operator's time, the nonce of the request, and JSON. Both are encrypted by "
        "AES-256-GCM with the client secret.",
        380,
    )
    # First, so that it passes behind the encrypted part.
    drawing.path("M168 174 V308", arrow=True, dashed=True)
    drawing.text(176, 212, "must be equal", "small soft")
    drawing.text(16, 30, "Request", "ink strong")
    drawing.text(384, 30, "HTTP POST with the API key", "small soft", anchor="end")
    drawing.box(16, 42, 48, "e", "0x01", "1 byte")
    drawing.box(64, 42, 64, "e", "IV", "12 bytes")
    drawing.box(128, 42, 192, "a", "encrypted", "AES-256-GCM")
    drawing.box(320, 42, 64, "e", "tag", "16 bytes")
    _open(drawing, 128, 90, "time", "JSON of the call")
    drawing.text(16, 216, "Reply", "ink strong")
    drawing.text(384, 216, "HTTP 200 only", "small soft", anchor="end")
    drawing.box(16, 228, 64, "e", "IV", "12 bytes")
    drawing.box(80, 228, 240, "a", "encrypted", "AES-256-GCM")
    drawing.box(320, 228, 64, "e", "tag", "16 bytes")
    _open(drawing, 80, 276, "server time", "JSON: body and status")
    return drawing


def _open(drawing: Drawing, x: int, y: int, time: str, json: str) -> None:
    """Draw the content of the encrypted part whose lower left corner is given."""
    drawing.path(f"M{x} {y} L16 {y + 36} M320 {y} L384 {y + 36}", dashed=True)
    drawing.box(16, y + 36, 112, "b", time, "8 bytes, ms")
    drawing.box(128, y + 36, 80, "c", "nonce", "8 bytes")
    drawing.box(208, y + 36, 176, "b", json, "UTF-8")


def draw_lifecycle() -> Drawing:
    """Draw the states of identity tokens over time (protocol.md 2.1 and 2.2)."""
    drawing = Drawing(
        "The lifetime of identity tokens",
        "Generated tokens are fresh until refresh_from, after about an hour. Then they "
        "are due: usable, but a refresh is needed. After identity_expires, about three "
        "days, they must not be used, but can still be refreshed. After "
        "refresh_expires, about thirty days, new tokens must be generated. A refresh "
        "returns new tokens, or reports that the person has opted out.",
        412,
    )
    drawing.text(16, 28, "token/generate", "ink strong")
    drawing.path("M116 36 V54", arrow=True)
    states = (
        ("b", "FRESH", "use", "refresh_from, 1 hour"),
        ("c", "DUE", "use, and refresh", "identity_expires, 3 days"),
        ("d", "EXPIRED_REFRESHABLE", "refresh, do not use", "refresh_expires, 30 days"),
        ("e", "DEAD", "generate new tokens", ""),
    )
    for number, (kind, name, action, end) in enumerate(states):
        y = 58 + 82 * number
        drawing.box(16, y, 200, kind, name, action)
        if end:
            drawing.path(f"M24 {y + 48} V{y + 78}", arrow=True)
            drawing.text(36, y + 69, end, "small ink")
    drawing.path("M216 164 H240 V246 H216 M240 205 H260", arrow=True)
    drawing.box(264, 181, 120, "a", "token/refresh")
    drawing.path("M324 181 V82 H220", arrow=True)
    drawing.text(232, 74, "new tokens", "small ink")
    drawing.path("M324 229 V300", arrow=True)
    drawing.text(316, 282, "opted out", "small ink", anchor="end")
    drawing.box(264, 304, 120, "e", "OPTED_OUT", "delete tokens")
    drawing.text(
        16, 386, "In an outage, tokens are used until identity_expires.", "small soft"
    )
    return drawing


def draw_job() -> Drawing:
    """Draw the steps of a file job with a state, and what each leaves behind."""
    drawing = Drawing(
        "The steps of a job with a state",
        "A job reads the inputs, asks the operator about identities that the state "
        "does not know, writes the outputs from the state, writes the delta, and marks "
        "its changes as exported. Replies are committed to the state, so that a killed "
        "job does not repeat its requests. Outputs get their names when complete.",
        472,
    )
    steps = (
        ("a", "read", "hash all identities", "read again"),
        ("c", "ask", "new, due or stale ones", "stored replies are kept"),
        ("b", "write", "outputs from the state", "complete outputs are kept"),
        ("b", "delta", "changes since the last one", "written again, unchanged"),
        ("e", "mark", "changes as exported", "delta is written again"),
    )
    drawing.text(16, 28, "uid2 map IN OUT", "ink strong")
    drawing.text(216, 28, "if it is killed in this step", "small soft")
    for number, (kind, name, action, killed) in enumerate(steps):
        y = 42 + 76 * number
        drawing.box(16, y, 184, kind, name, action)
        drawing.text(216, y + 28, killed, "small ink")
        if number + 1 < len(steps):
            drawing.path(f"M108 {y + 48} V{y + 72}", arrow=True)
    drawing.path("M16 418 H384", dashed=True)
    drawing.text(
        16, 440, "Run the same command again: it resumes in the step", "small soft"
    )
    drawing.text(16, 456, "in which it stopped.", "small soft")
    return drawing


def draw_failover() -> Drawing:
    """Draw one call over time: a timeout, failover, a 500, a success."""
    drawing = Drawing(
        "One call with retries and two regions",
        "The first attempt, to region A, ends in a timeout. After a random wait of up "
        "to 0.2 seconds, the second attempt goes to region B, and A is skipped for 30 "
        "seconds. B replies 500. After a random wait of up to 0.4 seconds, the third "
        "attempt succeeds. Each attempt is encrypted again. All attempts and waits "
        "together take at most 30 seconds.",
        372,
    )
    drawing.text(116, 30, "region A", "ink strong")
    drawing.text(260, 30, "region B", "ink strong")
    drawing.path("M32 44 V330", arrow=True)
    drawing.text(16, 30, "time", "small soft")
    for y, x, kind, *lines in (
        (44, 72, "d", "attempt 1", "timeout"),
        (138, 216, "d", "attempt 2", "500"),
        (232, 216, "b", "attempt 3", "200"),
    ):
        drawing.box(x, y, 136, kind, *lines)
        drawing.path(f"M26 {y} H38 M26 {y + 48} H38")
    drawing.path("M140 92 V162 H212", arrow=True)
    drawing.text(150, 118, "random wait, up to 0.2 s", "small ink")
    drawing.path("M284 186 V228", arrow=True)
    drawing.text(276, 212, "up to 0.4 s", "small ink", anchor="end")
    drawing.text(72, 196, "A is skipped", "small soft")
    drawing.text(72, 212, "for 30 s", "small soft")
    drawing.path("M16 346 H384", dashed=True)
    drawing.text(44, 314, "at most 30 s for all attempts and waits", "small ink")
    drawing.text(16, 362, "Each attempt has its own time, nonce and IV.", "small soft")
    return drawing


PICTURES: Final[dict[str, Callable[[], Drawing]]] = {
    "envelope.svg": draw_envelope,
    "failover.svg": draw_failover,
    "job.svg": draw_job,
    "token-lifecycle.svg": draw_lifecycle,
}


def main() -> None:
    """Write all pictures."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
