"""No regular expression takes more than linear time, because anyone may send long texts; see also test_redaction.py."""

import ast
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.growth import LINEAR, growth
from tests.test_architecture import NOT_IN_THE_WHEEL, TREES

# The worst inputs for each pattern: a beginning, and the part that is repeated after it. Those in COMMON are tried for
# all patterns, and each input ends with each of ENDS.
WORST: dict[str | bytes, list[tuple[str, str]]] = {
    # image_classifier
    rb"\xff([^\x00\x01\xd0-\xd8\xff])": [("", "\xff"), ("", "\xff\0"), ("", "\xff\xe0")],
    rb"\xff[\x01-\xcf\xd8-\xfe]": [("", "\xff"), ("", "\xff\0"), ("", "\xff\xda")],
    rb"[!,;]": [("", "!"), ("", "\0")],
    r"\A(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)": [
        ("", "denselayer"),
        ("", "denselayer1"),
        ("denselayer", "1"),
        ("", "denselayer1.norm"),
        ("", "denselayer1.norm.1"),
    ],
    r"\(os error (\d+)\)": [("", "(os error "), ("", "(os error 1"), ("(os error ", "1")],
    r"(^|[._])ema([._]|$)": [("", "ema"), ("", "_ema"), ("", "._")],
    r"\.": [("", ".")],
    r" ?[,;/&+|] ?| (?:and|or) ": [("", " "), ("", " ,"), ("", " and"), ("", " o")],
    r"[0-9a-f]{32}\.[a-z]{3,4}": [("", "0"), ("", "0" * 32), ("", "0" * 32 + ".")],
    r"([0-9a-f]{64}),([0-9a-f]{32}\.[a-z]{3,4}),([0-9]{1,12})\n": [
        ("", "0" * 64 + ","),
        ("", "0" * 64 + "," + "0" * 32 + ".png,"),
        ("0" * 64 + "," + "0" * 32 + ".png,", "0"),
    ],
    # label_studio_format
    r"\$([\w[\].{}]+)": [("", "$"), ("", "$a"), ("$", "a"), ("$", "[a]")],
    r"[^.[\]]+": [("", "."), ("", "a.")],
    r"\$\w": [("", "$"), ("", "$$a")],
    r"[ \t\r\n]*": [("", "\n"), ("", " a")],
    # my_backend.label_studio
    r"[A-Za-z][A-Za-z0-9+.-]{0,30}:": [("", "a+"), ("", "a" * 31 + " ")],
    r"[^?#]*": [("", "?"), ("", "a?")],
    r"^\w+\(host='[^']*', port=\d+\): |\[Errno -?\d+\] ": [
        ("a(host='", "a"),
        ("a(host='", "'"),
        ("a(host='a', port=", "1"),
        ("", "[Errno "),
        ("", "[Errno -1"),
        ("[Errno ", "1"),
    ],
    r"\?[^\s'\")>]+": [("", "?"), ("", "?'"), ("", "?a ")],
    r"//[^\s/@]*@": [("", "//"), ("", "//a"), ("//", "a"), ("//", "@"), ("", "//a@")],
    rb"<([a-z][a-z0-9:_-]{0,40})": [("", "<"), ("", "<a"), ("", "<" + "a" * 50)],
    rb"<(code|message)>([^<>]{1,200})<": [
        ("", "<code>"),
        ("", "<code>a"),
        ("<code>", "a"),
        ("", "<message>" + "a" * 201),
    ],
    r"[0-9a-f]{64}": [("", "0" * 63 + "g")],
    r"; *base64\s*$": [
        ("", ";"),
        ("", "; "),
        (";", " "),
        ("", ";base64"),
        ("", ";base64 "),
        (";base64", " "),
        (";base64", "\n"),
    ],
    rb"<Code>\s*([A-Za-z0-9._-]{1,80})\s*</Code>": [
        ("", "<Code>"),
        ("<Code>", " "),
        ("", "<Code> "),
        ("", "<Code>" + "a" * 81),
        ("<Code>a", " "),
        ("", "<Code>a "),
    ],
    rb"<(?:Code|Message)>[^<]*expired": [
        ("", "<Code>"),
        ("<Code>", "expire"),
        ("", "<Code>expire"),
        ("<Code>", "expired"),
        ("<Message>", "a"),
    ],
    # my_backend, the rest
    r"(head|full|embed)-[a-z0-9T-]{1,58}": [("", "head-"), ("", "full-" + "a" * 58), ("", "head")],
    r"v(\d+)-(\d{8}T\d{6})": [("", "v"), ("v", "1"), ("", "v1"), ("", "v1-20261120T"), ("", "v1-20261120T132501")],
    r"\d+(\.\d+)?": [("", "1."), ("1.", "1"), ("", "1.1")],
    r"[0-9]{1,18}(\.[0-9]{1,18})?": [("", "1."), ("1.", "1"), ("", "1" * 19)],
    "^[0-9a-f]{8}-": [("", "0000000-"), ("", "00000000-")],
    r"[A-Za-z0-9._~+/=-]*": [("", "a"), ("", "a ")],
    "[0-9]{1,15}": [("", "1" * 16), ("", "1 ")],
    r"[A-Za-z0-9._-]{1,64}": [("", "a" * 65)],
    r"[\w.]{1,200}:\w{1,100}": [("", "a."), ("a:", "a"), ("", "a:"), ("", "a" * 200 + " ")],
    r"([\\`*|<>\[\]])": [("", "\\"), ("", "["), ("", "a")],
    r"<(\w+)>": [("", "<"), ("<", "a"), ("", "<a")],
    r"[\w.-]+|\[[\w:.%]+\]": [("", "["), ("[", "a"), ("[", "%"), ("", "[a")],
    r"BASIC_AUTH_(?!USER$|PASS$)(?:USER|PASS|PW|LOGIN|NAME)\w*": [("", "BASIC_AUTH_"), ("", "BASIC_AUTH_USER")],
    r"\d{1,9}": [("", "1")],
    r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}": [("", "20261120T132501-00000g"), ("", "20261120T")],
    r"[0-9]{8}T[0-9]{6}\.[0-9]{6}-[0-9a-f]{6}": [("", "20261120T132501.000000-00000g"), ("", "20261120T132501.")],
    r"[\w./-]{1,60}": [("", "a/")],
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029]": [("", "\n"), ("", "\u2028a")],
    rb"[\r\n]+": [("", "\r"), ("", "\ra")],
}
COMMON = [("", part) for part in ("a", "0", " ", "\n", "\0", "é", ".", "-", "_", "/", "<", ";", "a-", "a.", "0.", "a ")]
ENDS = ("", "\1")  # nothing, and a character that hardly any pattern expects

TESTED_ELSEWHERE = {"safe_http.redaction"}
ASKED = ("compile", "findall", "finditer", "fullmatch", "match", "search", "split", "sub", "subn")


def patterns_of(name: str) -> Iterator[re.Pattern[Any]]:
    """The regular expressions that a module makes, wherever they stand in it."""
    for node in ast.walk(TREES[name]):
        match node:
            case ast.Call(ast.Attribute(ast.Name("re"), function), arguments) if function in ASKED:
                made_of = arguments if function == "compile" else arguments[:1]  # the pattern, and flags
                yield re.compile(*(eval(ast.unparse(one), vars(importlib.import_module(name))) for one in made_of))
            case ast.ImportFrom("re"):
                pytest.fail(f"{name}:{node.lineno}: write re.compile(…), so that this test finds the pattern")


@pytest.fixture(scope="module")
def patterns() -> dict[str | bytes, re.Pattern[Any]]:
    ours = [name for name in TREES if name.partition(".")[0] not in NOT_IN_THE_WHEEL and name not in TESTED_ELSEWHERE]
    return {one.pattern: one for name in ours for one in patterns_of(name)}


def test_worst_input_of_each_pattern_is_known(patterns: dict[str | bytes, re.Pattern[Any]]) -> None:
    assert patterns.keys() == WORST.keys()


@pytest.mark.parametrize("pattern", WORST)
def test_no_pattern_takes_more_than_linear_time(
    pattern: str | bytes, patterns: dict[str | bytes, re.Pattern[Any]]
) -> None:
    remove = patterns[pattern].sub

    def grown(*parts: str) -> float:
        if isinstance(pattern, bytes):
            return growth(lambda text: remove(b"", text), *(one.encode("latin-1") for one in parts))
        return growth(lambda text: remove("", text), *parts)

    inputs = [(*worst, end) for worst in (*WORST[pattern], *COMMON) for end in ENDS]
    assert {one: found for one in inputs if (found := grown(*one)) > LINEAR} == {}
