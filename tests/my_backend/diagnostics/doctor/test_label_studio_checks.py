"""The doctor's checks of Label Studio: its version, its clock, and the token."""

import time

import jwt
import pytest

from my_backend.diagnostics.doctor import label_studio_checks
from my_backend.diagnostics.doctor.check import Check
from my_backend.label_studio.client import LabelStudio
from safe_http.session import SafeSession
from testing.fake_label_studio.server import JWT_KEY, FakeLabelStudio

NOBODY = 1  # a port on which nothing listens


def codes(check: Check) -> list[str]:
    return [problem.code for problem in check.problems]


def connect(server: FakeLabelStudio, token: str | None = None) -> LabelStudio:
    return LabelStudio(server.url, server.pat if token is None else token, SafeSession(["127.0.0.1"]))


@pytest.mark.parametrize(
    ("release", "said", "found"),
    [
        ("1.23.2", "", []),
        ("1.24.0", "newer than 1.23.2", []),
        ("1.20.0.post1", "older than 1.23.2", []),
        ("1.16.0", "use the legacy token (your avatar → Account & Settings → Access Token)", []),
        ("1.12.1", "", ["label-studio-old"]),
        ("", "of unknown version", []),
    ],
)
def test_version_of_label_studio_is_checked(
    label_studio: FakeLabelStudio, release: str, said: str, found: list[str]
) -> None:
    label_studio.release = release
    check = label_studio_checks.check_release(connect(label_studio))

    assert codes(check) == found
    assert said in check.said


def test_password_in_the_url_is_not_shown(label_studio: FakeLabelStudio) -> None:
    url = label_studio.url.replace("//", "//user:password@")
    check = label_studio_checks.check_release(LabelStudio(url, "", SafeSession(["127.0.0.1"])))

    assert check.said == f"1.23.2 at {label_studio.url}"


def test_label_studio_that_is_not_there() -> None:
    client = LabelStudio(f"http://127.0.0.1:{NOBODY}", "", SafeSession(["127.0.0.1"]))
    [found] = label_studio_checks.check_label_studio(client)

    assert codes(found) == ["label-studio"]
    assert "set LABEL_STUDIO_URL to its address as seen from this backend" in str(found.problems[0])


@pytest.mark.parametrize(("ahead", "said"), [(0, ""), (300, "s behind Label Studio's"), (-300, "s ahead of Label")])
def test_clock_is_compared(label_studio: FakeLabelStudio, ahead: float, said: str) -> None:
    label_studio.server.seconds_ahead = ahead
    found = label_studio_checks.check_clock(connect(label_studio))

    assert said in "".join(map(str, found.problems))


def test_token_of_each_kind(label_studio: FakeLabelStudio) -> None:
    check = label_studio_checks.check_token
    access = jwt.encode({"token_type": "access", "exp": time.time() + 300}, JWT_KEY)
    assert codes(check(connect(label_studio, ""))) == ["no-token"]
    assert codes(check(connect(label_studio, access))) == ["token-short"]
    [refused] = check(connect(label_studio, "another")).problems
    assert (refused.code, refused.hint[:30]) == ("token", "Create a personal access token")

    label_studio.legacy_enabled = True
    assert check(connect(label_studio, label_studio.legacy)).said == "a legacy token that Label Studio accepts"


@pytest.mark.parametrize(("days", "said"), [(3, "expires in 3 days"), (40, "valid for 40 days"), (9999, "for years")])
def test_token_is_told_to_end(label_studio: FakeLabelStudio, days: float, said: str) -> None:
    label_studio.pat = jwt.encode({"token_type": "refresh", "exp": time.time() + days * 86400 + 60}, JWT_KEY)
    found = label_studio_checks.check_token(connect(label_studio))

    assert said in (found.problems[0].message if found.problems else found.said)
    assert codes(found) == (["token-ends"] if days < 14 else [])


def test_rights_of_the_tokens_owner_are_read(label_studio: FakeLabelStudio) -> None:
    may = "; its owner may change projects and webhooks"
    assert may not in label_studio_checks.check_token(connect(label_studio)).said
    label_studio.permissions = ["projects.change", "webhooks.change"]
    assert may in label_studio_checks.check_token(connect(label_studio)).said
    label_studio.permissions = ["projects.change"]
    assert codes(label_studio_checks.check_token(connect(label_studio))) == ["token-rights"]
