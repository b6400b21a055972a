import base64
import json
from urllib.parse import quote

import pytest

from my_backend.redaction import Redactor, basic_authorization

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
