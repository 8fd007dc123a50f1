from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from uid2_async.operator.java import (
    JavaDouble,
    JavaJsonError,
    as_java_string,
    decode_utf8,
    literal_text,
    parse,
    parse_object,
    parse_raw,
)

ACCEPTED = {
    "plain": ('{"a":[1,true,null,"x"]}', {"a": [1, True, None, "x"]}),
    "all the white space": (" \t\r\n[ 1 ,\n2 ]\n", [1, 2]),
    "block comments": ('/*c*/{/**/"a"/***/:/* " */1/**/}/**/', {"a": 1}),
    "line comments": ('// "\n{"a"//\r:1}//', {"a": 1}),
    "comment beside a number": ("[1/**/,2//\n]", [1, 2]),
    "comment signs in strings": (
        '["//","/*","*/","\\"/*","\\\\"/**/]',
        ["//", "/*", "*/", '"/*', "\\"],
    ),
    "comment after a root string": ('"x"/**/', "x"),
    "the last of equal keys": ('{"b":1,"a":2,"b":3}', {"b": 3, "a": 2}),
    "an escaped key is the same key": ('{"\\u0061":1,"a":2}', {"a": 2}),
    "escaped slash": ('["\\/"]', ["/"]),
    "surrogate pair": ('"\\ud83d\\ude00"', "\U0001f600"),
    "lone surrogate": ('["\\ud800"]', ["\ud800"]),
    "DEL and line separator in a string": ('["\x7f\u2028"]', ["\x7f\u2028"]),
    "minus zero is an Integer": ("[-0]", [0]),
    "big integer": (
        "[123456789012345678901234567890]",
        [123456789012345678901234567890],
    ),
    "1,000 digits": (f"[-{'1' * 1000}]", [-int("1" * 1000)]),
    "1,000 digits in all": (f"[-1.{'0' * 996}e+123]", [-1e123]),
    "a zero before the point does not count": (f"[-0.{'1' * 1000}]", [-1 / 9]),
    "a zero before an exponent does not count": (f"[0e{'0' * 1000}]", [0.0]),
    "longest name": (f'{{"{"n" * 50_000}":1}}', {"n" * 50_000: 1}),
    "root scalar": (" 5 ", 5),
    "root null": ("null", None),
}
REFUSED = {
    "empty": "",
    "white space alone": " ",
    "comment alone": "/**/",
    "trailing token": "{}{}",
    "trailing text": "{}x",
    "single quotes": "{'a':1}",
    "unquoted name": "{a:1}",
    "NaN": "[NaN]",
    "Infinity": "[Infinity]",
    "minus Infinity": "[-Infinity]",
    "leading zero": "[01]",
    "leading zero after minus": "[-01]",
    "plus": "[+1]",
    "no digit before the point": "[.5]",
    "no digit after the point": "[1.]",
    "no digit in the exponent": "[1e]",
    "trailing comma in a list": "[1,]",
    "trailing comma in an object": '{"a":1,}',
    "tab in a string": '["\t"]',
    "newline in a string": '["\n"]',
    "unknown escape": '["\\x"]',
    "escaped apostrophe": '["\\\'"]',
    "short unicode escape": '["\\u00"]',
    "form feed": "\x0c[]",
    "vertical tab": "[]\x0b",
    "no-break space": "\u00a0[]",
    "byte order mark": "\ufeff{}",
    "hash comment": "#x\n[]",
    "comment without end": "[]/*",
    "many comments without end": "/* " * 200_000,
    "comment that only seems to end": "[/*/]",
    "lone slash": "[1/ 2]",
    "control character in a comment": "[/*\x1e*/]",
    "control character in a line comment": "[//\x00\n]",
    "comment ends at no other line end": "[//\u2028]",
    "string without end among comments": '{/**/"a}',
    "comment right after a root number": "1/**/",
    "line comment right after a root number": "1//",
    "1,001 digits": f"[{'1' * 1001}]",
    "1,001 digits in all": f"[1.{'0' * 997}e123]",
    "1,001 digits with a zero before both": f"[0.{'1' * 999}e1]",
    "1,001 digits after a zero": f"[0.{'0' * 1001}]",
    "name too long": f'{{"{"n" * 50_001}":1}}',
    "name too long in UTF-16": f'{{"{chr(0x1F600) * 25_001}":1}}',
}


@pytest.mark.parametrize(("text", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_reads_what_jackson_reads(text: str, value: object) -> None:
    """Comments, equal keys and lone surrogates are read as the operator reads them."""
    assert parse(text) == value


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refuses_what_jackson_refuses(text: str) -> None:
    """Everything else that is no JSON to Jackson is refused, with one message."""
    with pytest.raises(
        JavaJsonError, match=r"^The operator would not accept this as JSON"
    ):
        parse(text)


def test_the_error_keeps_nothing_of_the_text() -> None:
    """The text may hold DII: neither the error nor what it was raised in shows it."""
    with pytest.raises(JavaJsonError) as caught:
        parse('{"email":"user@example.com"')
    assert "user@" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda depth: "[" * depth + "]" * depth, id="lists"),
        pytest.param(lambda depth: '{"a":' * depth + "1" + "}" * depth, id="objects"),
    ],
)
def test_nesting(make: Callable[[int], str]) -> None:
    """1,000 levels are read on every Python, 1,001 are not; a million do no harm."""
    for depth in (900, 975, 999, 1_000):
        assert as_java_string(parse(make(depth)))
    for depth in (1_001, 1_000_000):
        with pytest.raises(JavaJsonError):
            parse(make(depth))


def test_many_brackets_are_not_deep() -> None:
    """Only the nesting counts, not the number of lists, and none inside of strings."""
    text = f'[{"[]," * 1_000}"{"[" * 1_001}"]'
    assert parse(text) == [*([[]] * 1_000), "[" * 1_001]


def on_a_deep_stack(text: str, levels: int = 700) -> object:
    """Parse *text* where the interpreter's stack is about to end."""
    return on_a_deep_stack(text, levels - 1) if levels else parse(text)


def test_the_depth_of_the_stack_plays_no_part() -> None:
    """Jackson's limit holds wherever the operator is embedded."""
    value = on_a_deep_stack("[" * 1_000 + "]" * 1_000)

    assert as_java_string(value) == "[" * 1_000 + "]" * 1_000


DEEP = 900


@pytest.mark.parametrize(("text", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_deep_inside_the_same_is_read(text: str, value: object) -> None:
    """What is nested deeply follows the same grammar."""
    if text[0] == "/" or text.startswith(" 5"):
        text = text.strip()
    deep = parse("[" * DEEP + text.replace("//c", "") + "\n" + "]" * DEEP)

    for _ in range(DEEP):
        (deep,) = deep  # type: ignore[misc]
    assert deep == value


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_deep_inside_the_same_is_refused(text: str) -> None:
    """What is nested deeply follows the same grammar; there, a list may be empty."""
    if not text.strip() or text == "/**/" or "right after a root" in text:
        return
    if text in {"1/**/", "1//"}:
        return
    with pytest.raises(JavaJsonError):
        on_a_deep_stack("[" * DEEP + text + "]" * DEEP)


def test_bytes_are_utf8_with_replacement() -> None:
    """Bytes that are no UTF-8 become U+FFFD and stay in the string."""
    assert parse(b'["\xc3\xa9\xff"]') == ["\u00e9\ufffd"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xed\xa0\x80", "\ufffd"),
        (b"\xed\xa0", "\ufffd"),
        (b"\xed\xbf\xbf\x80", "\ufffd\ufffd"),
        (b"\xed\x9f\xbf", "\ud7ff"),
        (b"\xed", "\ufffd"),
        (b"\xe0\x80\x80", "\ufffd\ufffd\ufffd"),
        (b"\xf0\x9f\x98a", "\ufffda"),
        (b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
        (b"\xf0\x9f\x98\x80", "\U0001f600"),
    ],
)
def test_replacement_characters_are_counted_as_in_java(data: bytes, text: str) -> None:
    """A surrogate, whole or cut, is one replacement character; Python makes more."""
    assert decode_utf8(data) == text


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32-be"]
)
def test_raw_bytes_in_any_unicode_form(codec: str) -> None:
    """Without a text in between, Jackson finds out the encoding by itself."""
    assert parse_raw('{"a":"\u00e9"}'.encode(codec)) == {"a": "\u00e9"}


def test_raw_bytes_that_are_no_utf8() -> None:
    """Without a text in between, wrong UTF-8 is an error."""
    with pytest.raises(JavaJsonError):
        parse_raw(b'["\xff"]')


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b'/*c*/{"a":1}', {"a": 1}),
        (b"[]", None),
        (b"null", None),
        (b'"x"', None),
        (b"x", None),
        ('{"a":1}', {"a": 1}),
    ],
)
def test_parse_object(data: bytes | str, value: object) -> None:
    """A payload must be an object; everything else is one and the same error."""
    assert parse_object(data) == value


@pytest.mark.parametrize(
    ("text", "string"),
    [
        ("null", None),
        ('"x"', "x"),
        ('""', ""),
        ("true", "true"),
        ("false", "false"),
        ("-0", "0"),
        ("17", "17"),
        ("9223372036854775808", "9223372036854775808"),
        ('["x@y.z"]', "[x@y.z]"),
        ('{"a":1}', "{a=1}"),
        ('{"":1}', "{=1}"),
        ("[]", "[]"),
        ("{}", "{}"),
        (
            '{"a":{"b":null,"c":[null,"x",1.0,[]]},"d":true}',
            "{a={b=null, c=[null, x, 1.0, []]}, d=true}",
        ),
    ],
)
def test_to_string(text: str, string: str | None) -> None:
    """A value of another type is judged by its Java toString()."""
    assert as_java_string(parse(text)) == string


@pytest.mark.parametrize(
    ("number", "string"),
    [
        ("1e3", "1000.0"),
        ("1.50", "1.5"),
        ("0.0", "0.0"),
        ("-0.0", "-0.0"),
        ("0e5", "0.0"),
        ("0.001", "0.001"),
        ("0.0002", "2.0E-4"),
        ("0.0009999999999999998", "9.999999999999998E-4"),
        ("9999999.0", "9999999.0"),
        ("9999999.999999998", "9999999.999999998"),
        ("1E7", "1.0E7"),
        ("-12345678.9", "-1.23456789E7"),
        ("1234567890.0", "1.23456789E9"),
        ("1e22", "1.0E22"),
        ("1e23", "1.0E23"),
        ("2e-3", "0.002"),
        ("1.0E-5", "1.0E-5"),
        ("1.7976931348623157e308", "1.7976931348623157E308"),
        ("4.9e-324", "4.9E-324"),
        ("1e-323", "9.9E-324"),
        ("1.5e-323", "1.5E-323"),
        ("2e-323", "2.0E-323"),
        ("2.2250738585072014E-308", "2.2250738585072014E-308"),
        ("1e-400", "0.0"),
        ("1e400", "Infinity"),
        ("-1e400", "-Infinity"),
    ],
)
def test_double_to_string(number: str, string: str) -> None:
    """A Double prints as Java 21 prints it: shortest, with an exponent from 1E7 on."""
    assert as_java_string(parse(number)) == string


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_double_to_string_reads_back(value: float) -> None:
    """What a Double prints as is the same Double again."""
    string = as_java_string(JavaDouble(repr(value)))
    assert string is not None
    assert float(string) == value


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("1.50", "1.50"),
        ("1E5", "1E5"),
        ("12", "12"),
        ("true", "true"),
        ('"x"', "x"),
        ("null", None),
        ("[]", None),
        ("{}", None),
    ],
)
def test_literal_text(text: str, literal: str | None) -> None:
    """To v3/identity/map a number is its text, and only scalars have one."""
    assert literal_text(parse(text)) == literal


def test_java_double_is_a_float() -> None:
    """A Double can be calculated with, and knows how it was written."""
    number = parse("1.50")
    assert isinstance(number, JavaDouble)
    assert (number + 1, number.text) == (2.5, "1.50")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=JSON_VALUES, ascii_only=st.booleans())
@settings(deadline=None)
def test_any_json_survives_comments(value: object, *, ascii_only: bool) -> None:
    """Comments between the tokens change nothing, whatever the strings hold."""
    text = json.dumps(
        value,
        ensure_ascii=ascii_only,
        separators=('/*"*/,// "\n', " /***/:"),
    )
    assert parse(f"//x\n{text} /**/") == value
