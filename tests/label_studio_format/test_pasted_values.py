import pytest

from label_studio_format.pasted_values import check_token, check_visible, trimmed

AROUND = ["\n", "\r\n", "\r", " ", "\t", "\u00a0", "\u200b", "\u2060", "\ufeff", "\u2028", "\0", " \n\n "]


@pytest.mark.parametrize("around", AROUND)
def test_what_nobody_sees_is_trimmed(around: str) -> None:
    given = ["value" + around, around + "value", around + "value" + around, f"{around}'value{around}'{around}"]
    assert [trimmed(value) for value in given] == ["value"] * 4
    assert trimmed(around) == ""


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ('"value"', "value"),
        ("'value'", "value"),
        ("`value`", "value"),
        ("“value”", "value"),
        ("„value“", "value"),
        ('"it\'s"', "it's"),
        ('value"', 'value"'),
        ("'value\"", "'value\""),
        ('"', '"'),
        ('""', ""),
        ("", ""),
        ("in the middle", "in the middle"),
    ],
)
def test_one_pair_of_quotes_is_trimmed(value: str, left: str) -> None:
    assert trimmed(value) == left


@pytest.mark.parametrize("odd", ["\n", "\r", "\t", "\u200b", "\u00ad", "\ufeff", "\u2028", "\x7f", "\udcff"])
def test_what_nobody_sees_inside_is_refused_without_the_value(odd: str) -> None:
    with pytest.raises(ValueError, match="copy it again") as refused:
        check_visible(f"begin{odd}end")
    assert "begin" not in str(refused.value)


def test_other_characters_are_seen() -> None:
    check_visible("pässwörd with blanks, “quotes” and ☃")


@pytest.mark.parametrize("odd", ["é", " ", '"', "'", "\n", ":", "’", "\u200b", "<", ","])
def test_token_that_no_header_carries_is_refused_without_being_shown(odd: str) -> None:
    with pytest.raises(ValueError, match="can't be in a token") as refused:
        check_token(f"begin{odd}end")
    assert "begin" not in str(refused.value)


def test_tokens_of_label_studio_are_taken() -> None:
    for token in ("", "0123456789abcdef0123456789abcdef01234567", "eyJhbGciOi.eyJ0b2tlbl90.c2ln-bmF0_dXJl", "a+b/c=="):
        check_token(token)
