import base64
import html
import itertools
import json
import re
from urllib.parse import quote

import pytest

from safe_http import redaction
from safe_http.redaction import END, LONGEST, MOST_KNOWN, Redactor, basic_authorization, shortened
from tests.growth import LINEAR, growth

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"Authorization: Token {LEGACY}", "Authorization: Token ***"),
        (f"authorization: bearer {JWT}", "authorization: bearer ***"),
        ("authorization: basic dXNlcjpwYXNzd29yZA==", "authorization: basic ***"),
        (f"{{'Authorization': 'Bearer {JWT}'}}", "{'Authorization': '***'}"),
        (f'{{"refresh": "{JWT}"}}', '{"refresh": "***"}'),
        (json.dumps(json.dumps({"access_token": "abc"})), '"{\\"access_token\\": \\"***\\"}"'),
        ("{'access_token': 'short', 'id': 7}", "{'access_token': '***', 'id': 7}"),
        (f"the token is {JWT}, or {LEGACY}", "the token is ***, or ***"),
        ("GET /a.png?token=abc&page=2", "GET /a.png?token=***&page=2"),
        ("/a?X-Amz-Credential=x/y&X-Amz-Signature=1&k=v", "/a?X-Amz-Credential=***&X-Amz-Signature=***&k=v"),
        ("/a?X-Goog-Signature=12 and more", "/a?X-Goog-Signature=*** and more"),
        ("/a.png?sv=2020&sig=ab%3D", "/a.png?sv=2020&sig=***"),
        ("/a.png?AWSAccessKeyId=AK&Signature=b", "/a.png?AWSAccessKeyId=***&Signature=***"),
        ("LABEL_STUDIO_API_KEY=abc BASIC_AUTH_PASS=x PORT=9", "LABEL_STUDIO_API_KEY=*** BASIC_AUTH_PASS=*** PORT=9"),
        ("Cookie: sessionid=abc; csrftoken=def", "Cookie: sessionid=***; csrftoken=***"),
        ("redis://:pass@redis:6379/0", "redis://:***@redis:6379/0"),
        ("http://user:p@ss:w@label-studio/a@b", "http://user:***@label-studio/a@b"),
        ("https://ghp_abc@host/", "https://***@host/"),
        ("id AKIAIOSFODNN7EXAMPLE", "id ***"),
    ],
)
def test_what_looks_like_a_secret(text: str, left: str) -> None:
    assert Redactor()(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "task 7: http://host:80/a.png?page=12345678 is no token: see Basic usage",
        "legacy token authentication has been disabled for this organization",
        "set LABEL_STUDIO_API_KEY to a personal access token",
        "image " + "0123456789abcdef" * 4 + " is broken",
        "project 7.1795181751: published v7-20261120T132501",
        "someone@example.org in http://host:9090/projects/7 at 12:30",
        "job head-20261120T132501-0a1b2c: started (annotations changed)",
    ],
)
def test_ordinary_texts_are_left_alone(text: str) -> None:
    assert Redactor()(text) == text


SECRETS = ["plain-secret", 'pa"ss\\wörd', "a/b c?d&e=f", "new\nline", "p", "(regex|.*)["]


@pytest.mark.parametrize("secret", SECRETS)
def test_known_secrets_in_every_form(secret: str) -> None:
    redact = Redactor([secret])
    forms = [secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]]
    forms.append(json.dumps(secret, ensure_ascii=False)[1:-1])

    assert [redact(f"<{form}>") for form in forms] == ["<***>"] * len(forms)


def test_longer_secrets_first() -> None:
    assert Redactor(["abc", "abcdef"])("abcdef abc") == "*** ***"


def test_header_of_basic_auth_is_as_good_as_the_password() -> None:
    header = basic_authorization("user", "pässword")
    assert base64.b64decode(header).decode() == "user:pässword"
    assert Redactor([header])(f"{header}") == "***"


ODD = [
    "line\nend",
    "line\r\nend",
    "tab\tand blank",
    "both\"quotes'",
    "back\\slash",
    "zero\u200bwidth",
    "pässwörd",
    "p&<w>",
]


@pytest.mark.parametrize("secret", ODD)
def test_odd_secret_is_hidden_however_an_error_quotes_it(secret: str) -> None:
    redact = Redactor([secret])
    header = f"Token {secret}"
    quoted = [repr(header), ascii(header), repr(header.encode()), repr([header, "\"'"]), json.dumps({"sent": header})]
    quoted += [json.dumps(repr(header)), repr(json.dumps(header)), quote(header).lower(), html.escape(header)]
    rest = secret.encode("unicode_escape").decode().rpartition("\\")[2][-3:]

    assert [text for text in quoted if "***" not in redact(text) or rest in redact(text)] == []


def test_secret_is_hidden_without_the_line_end_that_it_was_given_with() -> None:
    assert Redactor(["secret\n"])("Token secret, b'secret'") == "Token ***, b'***'"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (r'{"password": "quo\"ted and more"}', '{"password": "***"}'),
        ("""{"token": "it's"}""", '{"token": "***"}'),
        ("{b'password': b'bytes'}", "{b'password': b'***'}"),
        (rf"b'\n{LEGACY}\n'", r"b'\n***\n'"),
        (f"%0A{LEGACY}%0A", "%0A***%0A"),
        (f"x-{JWT}", "x-***"),
    ],
)
def test_what_looks_like_a_secret_inside_quotes_and_escapes(text: str, left: str) -> None:
    assert Redactor()(text) == left


# --- long texts ---------------------------------------------------------------

PARTS = [
    *(
        "a-",
        "a",
        "x-amz-",
        "x-goog-a",
        "token ",
        "token\t",
        "token=",
        "token= ",
        "basic",
        "\\",
        '\\"',
        '"',
        '"a',
        "'token':'",
    ),
    *(
        '"token"',
        '"token" ',
        '"token":',
        'token":"',
        'token"\\',
        "://",
        "://a",
        "://a:",
        "://a:b@",
        ":",
        "@",
        "eyJ",
        "eyJaaaaa-",
    ),
    *("eyJaaaaa.", "-eyJ", "0", "0" * 40, "f" * 39 + "g", "%00", "AKIA", "AKIAAAAAAAAAAAAAA_", " ", "\n", "/", "é"),
]
BEGINS = ["", '"token": "', "://a:"]


@pytest.mark.parametrize("pattern", [*(compiled for compiled, _ in redaction._COMPILED), redaction._CUT_URL])
def test_no_pattern_takes_more_than_linear_time(pattern: re.Pattern[str]) -> None:
    slow = {
        (begin, part): found
        for begin, part in itertools.product(BEGINS, PARTS)
        if (found := growth(lambda text: pattern.sub("", text), begin, part, "")) > LINEAR
    }
    assert slow == {}


def test_known_secrets_take_no_more_than_linear_time() -> None:
    redact = Redactor(["a" * 4000 + "b", "ab" * 2000 + "c"])
    assert max(growth(redact._hide, "", part, "") for part in ("a", "ab", "a" * 4000)) < LINEAR


SECRETS_OF_ANY_LENGTH = [
    ("known-" + "0123456789" * 30, "{}"),
    ("blank in it " * 20, "{}"),
    (LEGACY, " {} "),
    ("9" * 3000, "Authorization: Token {}"),
    ("p" * 3000, "redis://me:{}@redis:6379"),
    ("q" * 3000, "https://{}@host/"),
    ("eyJ" + "hb" * 1000 + "." + "c2" * 1000, " {} "),
    ("w" * 3000, "?token={}&b=1"),
    ("long with blanks " * 200, '{{"password": "{}"}}'),
]


@pytest.mark.parametrize(("secret", "written"), SECRETS_OF_ANY_LENGTH)
def test_cut_shows_no_part_of_a_secret(secret: str, written: str) -> None:
    redact = Redactor([secret.strip()] if written == "{}" else [])
    text = written.format(secret)
    pieces = {secret[start : start + 8] for start in range(len(secret) - 8)}
    for cut in (LONGEST - END, LONGEST):
        for before in range(cut - len(text) - 50, cut + 50, 97):
            long = "line \n" * (before // 6) + text + "\nmore" * LONGEST
            shown = redact(long)
            ends = redact("more\n" * LONGEST + text + "\nline " * (max(0, before - LONGEST + END) // 6))
            assert [piece for piece in pieces if piece in shown or piece in ends] == [], before


def test_long_text_is_cut_and_its_last_lines_stay() -> None:
    shown = Redactor()("Traceback:\n" + "  in a\n" * 100_000 + "ValueError: why")

    assert shown.startswith("Traceback:\n  in a\n")
    assert shown.endswith("\n  in a\nValueError: why")
    assert "700,026 characters in all" in shown
    assert len(shown) < LONGEST + 100


def test_shortened_text_shows_no_part_of_a_secret() -> None:
    path = f"/files/{LEGACY}/a.png"
    assert [shortened(path, length) for length in (10, 20)] == ["/files/***…", "/files/***/a.png"]


def test_text_without_a_line_end_is_cut_at_once() -> None:
    assert len(Redactor()("/a" * 1_000_000)) < LONGEST


def test_more_secrets_than_are_looked_for_cost_nothing() -> None:
    redact = Redactor()
    for number in range(2 * MOST_KNOWN):
        redact.know([f"secret-number-{number}."])

    assert len(redact._forms) == MOST_KNOWN
    assert redact("secret-number-7.") == "***"


def test_secret_is_hidden_as_long_as_anyone_has_it() -> None:
    redact = Redactor(["first-secret"])
    redact.know(["first-secret", "second-secret"])

    redact.forget(["first-secret"])
    assert redact("first-secret second-secret") == "*** ***"
    redact.forget(["first-secret", "second-secret", "unknown"])
    assert redact("first-secret second-secret") == "first-secret second-secret"


def test_secret_beyond_the_limit_is_hidden_as_soon_as_there_is_room() -> None:
    others = [f"secret-number-{number}." for number in range(MOST_KNOWN)]
    redact = Redactor(others)
    redact.know(["first-secret"])
    redact.know(["second-secret"])
    assert len(redact._forms) == MOST_KNOWN

    redact.forget(others[:2])
    assert redact("first-secret second-secret") == "*** ***"


def test_forgetting_a_secret_beyond_the_limit_takes_it_from_nobody_else() -> None:
    others = [f"secret-number-{number}." for number in range(MOST_KNOWN)]
    redact = Redactor(others)
    redact.know(["a-persons-token"])  # by one part, while there is no room
    redact.forget(others)
    redact.know(["a-persons-token"])  # by another one, which keeps it

    redact.forget(["a-persons-token"])
    assert redact("a-persons-token") == "***"
    redact.forget(["a-persons-token"])
    assert redact("a-persons-token") == "a-persons-token"
