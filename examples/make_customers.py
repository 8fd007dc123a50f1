"""Generate customers.csv: made-up people, the same ones in each run.

    python examples/make_customers.py [FILE]

None of them can exist. The domains are reserved by RFC 2606, the local parts at
gmail.com are longer than Gmail allows, and the phone numbers are reserved for fiction.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from itertools import chain, count, islice
from pathlib import Path

ROWS = 10_000
SEED = 20_260_101

HEADER = ("id", "name", "INPUT", "INPUT_TYPE", "city", "note")

Identity = tuple[str, str]

FIRST_NAMES = (
    "Ada",
    "Amélie",
    "Björn",
    "Chloë",
    "Dmitri",
    "Élodie",
    "Fatima",
    "Grace",
    "Håkon",
    "Jürgen",
    "Łukasz",
    "María",
    "Ngozi",
    "Renée",
    "Søren",
    "Tomáš",
    "Víctor",
    "Wei",
    "Yusuf",
    "Zoë",
    "Σοφία",
    "Наталья",
    "יעל",
    "美咲",
    "민준",
)
LAST_NAMES = (
    "Brontë",
    "Çelik",
    "Dvořák",
    "Eriksson",
    "Fernández",
    "García",
    "Høgh",
    "Jansen",
    "Kowalski",
    "Lefèvre",
    "Müller",
    "Nguyễn",
    "O'Brien",
    "Papadopoulos",
    "Rossi",
    "Šimić",
    "Tanaka",
    "van-den-Berg",
    "Weiß",
    "Zając",
    "Παππά",
    "Иванова",
    "山田",
    "김",
)
CITIES = (
    "Amsterdam",
    "Bogotá",
    "Gdańsk",
    "Kraków",
    "København",
    "London",
    "Malmö",
    "München",
    "New York, NY",
    "Portland, OR",
    "São Paulo",
    "Tōkyō",
    "Zürich",
    "Αθήνα",
    "Київ",
    "東京",
    "서울",
)
NOTES = (
    "",
    "",
    "",
    "VIP",
    "prefers e-mail, not phone",
    'says "call me later"',
    '5" display bought',
    "first line\nsecond line",
    "=SUM(A1:A9)",
    "  spaces stay  ",
    "naïve café ☕",
    "O'Hara; semicolons; and\ttabs",
)
DOMAINS = ("example.com", "example.net", "example.org", "shop.example", "mail.example")
AREA_CODES = ("201", "212", "303", "404", "415", "503", "602", "702", "808", "919")

OPT_OUT_EMAIL = "optout@example.com"
OPT_OUT_PHONE = "+00000000000"

# How many of what there are, of a hundred.
WEIGHTS = {
    "email": 55,
    "phone": 20,
    "email_hash": 5,
    "email_hex": 3,
    "phone_hash": 3,
    "phone_hex": 2,
    "again": 8,
    "opted_out": 1.5,
    "invalid": 2,
    "invalid_type": 0.5,
}

# Each kind of trouble that the operator calls an invalid identifier.
INVALID = (
    ("", "email"),
    ("jane.doe.example.com", "email"),
    ("jane@@example.com", "email"),
    ("@example.com", "email"),
    ("jane@example.com; joe@example.com", "email"),
    ("n/a", "email"),
    ("020 7946 0018", "phone"),
    ("+44 7700 900123", "phone"),
    ("(202) 555-0123", "phone"),
    ("+1555", "phone"),
    ("unknown", "phone"),
    ("d41d8cd98f00b204e9800998ecf8427e", "email_hash"),
    ("tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVR", "email_hash"),
    ("not a hash", "phone_hash"),
)
# The type is wrong, whatever the value.
INVALID_TYPES = ("", "e-mail", "uid2", "address", "email hash")


def main() -> None:
    """Write the file that the command line names, or customers.csv in this folder."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    target = target or Path(__file__).with_name("customers.csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(make_rows())


def make_rows() -> Iterator[tuple[str, ...]]:
    """Generate all rows. The first few show one of each kind."""
    rng = random.Random(SEED)  # noqa: S311 - made-up people, not keys
    identities = islice(chain(showcase(), make_identities(rng)), ROWS)
    for number, (value, kind) in enumerate(identities, 1):
        name = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        if number % 9 == 0:
            first, last = name.split(" ", 1)
            name = f"{last}, {first}"
        if number % 251 == 0:
            name = f'{name} "{rng.choice(FIRST_NAMES)}"'
        yield (
            f"C{number:05}",
            name,
            value,
            kind,
            rng.choice(CITIES),
            rng.choice(NOTES),
        )


def showcase() -> list[Identity]:
    """List what the first rows show."""
    return [
        ("ada.lovelace@example.com", "email"),
        ("Ada.Lovelace@EXAMPLE.com", "email"),
        (hashed("grace.hopper@example.org"), "email_hash"),
        ("+12015550123", "phone"),
        (OPT_OUT_EMAIL, "email"),
        ("not an e-mail address", "email"),
        (hashed("+447700900123", hexadecimal=True), "phone_hash"),
        ("jane@example.net", "e-mail"),
    ]


def make_identities(rng: random.Random) -> Iterator[Identity]:
    """Generate identities without end: new ones, and sometimes an unusual one."""
    emails = make_emails(rng)
    phones = make_phones(rng)
    seen: list[Identity] = []
    new: dict[str, Callable[[], Identity]] = {
        "email": lambda: (next(emails), "email"),
        "phone": lambda: (next(phones), "phone"),
        "email_hash": lambda: (hashed(next(emails)), "email_hash"),
        "email_hex": lambda: (hashed(next(emails), hexadecimal=True), "email_hash"),
        "phone_hash": lambda: (hashed(next(phones)), "phone_hash"),
        "phone_hex": lambda: (hashed(next(phones), hexadecimal=True), "phone_hash"),
    }
    odd: dict[str, Callable[[], Identity]] = {
        "again": lambda: again(rng, *rng.choice(seen)),
        "opted_out": lambda: opted_out(rng),
        "invalid": lambda: rng.choice(INVALID),
        "invalid_type": lambda: (next(emails), rng.choice(INVALID_TYPES)),
    }
    while True:
        (what,) = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))
        if what in new:
            seen.append(new[what]())
            yield seen[-1]
        elif seen:
            yield odd[what]()


def make_emails(rng: random.Random) -> Iterator[str]:
    """Generate distinct email addresses in the spellings of web forms."""
    words = ("anna", "ben", "chris", "dana", "eli", "finn", "gül", "hugo")
    for number in count(1):
        word = rng.choice(words)
        if number % 8 == 0:
            yield f"{word}.{number:05}.nobody.is.ever.called.anything.like.it@gmail.com"
            continue
        address = f"{word}{rng.choice('._-')}{number:05}@{rng.choice(DOMAINS)}"
        match number % 30:
            case 1:
                address = address.upper()
            case 2:
                address = f"  {address} "
            case 3:
                address = address.replace("@", "+news@")
        yield address


def make_phones(rng: random.Random) -> Iterator[str]:
    """Generate distinct phone numbers from ranges reserved for fiction."""
    american = [f"+1{code}55501{n:02}" for code in AREA_CODES for n in range(100)]
    british = [f"+447700900{n:03}" for n in range(1000)]
    german = [f"+493023125{n:03}" for n in range(1000)]
    french = [f"+3363998{n:04}" for n in range(10_000)]
    numbers = [*american, *british, *german, *french]
    rng.shuffle(numbers)
    yield from numbers


def again(rng: random.Random, value: str, kind: str) -> Identity:
    """Repeat a person: the same value, another spelling, or the hash."""
    if kind.endswith("_hash"):
        return value, kind
    ways = [(value, kind), (hashed(normal(value)), f"{kind}_hash")]
    if kind == "email":
        ways += [(value.upper() if value.isascii() else value, kind)]
    local, _, domain = value.partition("@")
    if domain == "gmail.com":
        ways += [(f"{local.replace('.', '')}+shop@GMail.com", kind)]
    return rng.choice(ways)


def opted_out(rng: random.Random) -> Identity:
    """Return a person who has opted out: the operator's test identities."""
    return rng.choice(
        [
            (OPT_OUT_EMAIL, "email"),
            ("OptOut@Example.COM", "email"),
            (hashed(OPT_OUT_EMAIL), "email_hash"),
            (hashed(OPT_OUT_EMAIL, hexadecimal=True), "email_hash"),
            (OPT_OUT_PHONE, "phone"),
            (hashed(OPT_OUT_PHONE), "phone_hash"),
        ]
    )


def hashed(value: str, *, hexadecimal: bool = False) -> str:
    """Normalize and hash a value, as a customer's own system would."""
    digest = hashlib.sha256(normal(value).encode())
    if hexadecimal:
        return digest.hexdigest()
    return base64.b64encode(digest.digest()).decode()


def normal(value: str) -> str:
    """Normalize what this script generates. The library's own rules cover far more."""
    local, at, domain = value.strip().partition("@")
    lower = str.maketrans({chr(n): chr(n + 32) for n in range(65, 91)})
    local, domain = local.translate(lower), domain.translate(lower)
    if domain == "gmail.com":
        local = local.partition("+")[0].replace(".", "")
    return f"{local}{at}{domain}"


if __name__ == "__main__":
    main()
