"""A list of URLs and classes, as spreadsheets and people write it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from image_classifier.cli.url_list import Line, read_lines
from image_classifier.errors import UsersError

Read = Callable[[str | bytes], list[Line]]

CAT, DOG = "https://example.com/cat.jpg", "https://example.com/dog.jpg"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str | bytes) -> list[Line]:
        file = tmp_path / "list.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_lines(file)

    return read


@pytest.mark.parametrize(
    "text",
    [
        f"{CAT},cat\n{DOG},dog\n",
        f"\n{CAT},cat\n{DOG},dog",
        f"url,label\n{CAT},cat\n{DOG},dog\n",
        f"Image link,Kind\n{CAT},cat\n{DOG},dog\n",
        f"id,class,URL,note\n1,cat,{CAT},\n2,dog,{DOG},\n",
        f"label,url\ncat,{CAT}\ndog,{DOG}\n",
        f"url\tlabel\n{CAT}\tcat\n{DOG}\tdog\n",
        f"url;label\n{CAT};cat\n{DOG};dog\n",
        f'"{CAT}", "cat"\r\n\r\n , \r\n"{DOG}", dog \r\n',
        f"{CAT},cat\r{DOG},dog\r",
        f"\ufeffurl,label\r\n{CAT},cat\r\n{DOG},dog\r\n",
        f"{CAT},cat\n{DOG},dog\n".encode("utf-16"),
        f'url,label,note\n{CAT},cat,"two\nlines"\n{DOG},dog,\n',
    ],
)
def test_lists_in_usual_forms_are_read(read: Read, text: str | bytes) -> None:
    assert [(line.url, line.label, line.problem) for line in read(text)] == [(CAT, "cat", ""), (DOG, "dog", "")]


@pytest.mark.parametrize(
    ("url", "delimiter"),
    [
        ("https://example.com/a,b.jpg", ";"),
        ("https://example.com/w_200,h_200,c_fill/1.jpg", ";"),
        ("https://example.com/a;b.jpg", ","),
        ("https://example.com/a;b,c.jpg", "\t"),
    ],
)
@pytest.mark.parametrize("others", ["", f"{DOG}|dog\n", f"{DOG}|dog\n{DOG}\n{DOG}|dog\n"])
def test_first_url_may_contain_other_delimiters(read: Read, url: str, delimiter: str, others: str) -> None:
    first, *_ = lines = read(f"{url}|cat\n{others}".replace("|", delimiter))

    assert (first.url, first.label) == (url, "cat")
    assert {(line.url, line.label) for line in lines[1:]} <= {(DOG, "dog"), (DOG, "")}


@pytest.mark.parametrize(
    "text", [f"{CAT},cat,a note; and more\n{DOG},dog,\n", f'"{CAT}","cat",";"\n"{DOG}","dog",""\n']
)
def test_other_delimiters_in_notes_do_not_count(read: Read, text: str) -> None:
    assert [(line.url, line.label) for line in read(text)] == [(CAT, "cat"), (DOG, "dog")]


def test_lines_keep_their_numbers(read: Read) -> None:
    lines = read(f'url,label,note\n\n{CAT},cat,"two\nlines"\n\n{DOG},dog,\n')

    assert [line.number for line in lines] == [3, 6]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"{CAT},", "no class"),
        (CAT, "no class"),
        (",cat", "no URL"),
        ("cat.jpg,cat", "not an http:// or https:// URL"),
        ("ftp://example.com/cat.jpg,cat", "not an http:// or https:// URL"),
        ("https://example.com:port/cat.jpg,cat", "not an http:// or https:// URL"),
        (f"{CAT},a/b", "because it contains /"),
        (f"{CAT},..", "hidden or system folder"),
        (f"{CAT},../../etc", "because it contains /"),
        (f"{CAT},.hidden", "hidden or system folder"),
        (f"{CAT},__MACOSX", "hidden or system folder"),
        (f"{CAT},nul", "reserved on Windows"),
        (f"{CAT},COM1.x", "reserved on Windows"),
        (f"{CAT},LPT²", "reserved on Windows"),
        (f"{CAT},Conin$", "reserved on Windows"),
        (f"{CAT},Collect.csv", "the name of the report"),
        (f"{CAT},cat.", "ends in a period"),
        (f"{CAT},c\u200bt", "can't be shown"),
        (f"{CAT},{'é' * 128}", "longer than 255 bytes"),
        (f"{CAT},DOG", "differs from dog on line 1 only in case"),
    ],
)
def test_line_that_cannot_be_used_says_why(read: Read, line: str, problem: str) -> None:
    good, bad = read(f"{DOG},dog\n{line}\n")

    assert good.problem == ""
    assert problem in bad.problem


@pytest.mark.parametrize("name", ["Käfer", "猫", "a b", "naïve & co. (2)", "é" * 127])
def test_class_keeps_its_name(read: Read, name: str) -> None:
    [line] = read(f"{CAT},{name}\n")

    assert (line.label, line.problem) == (name, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no line with the URL and the class"),
        ("url,label\n", "no line with the URL and the class"),
        ("a.jpg,cat\n", "line 1: not an http:// or https:// URL"),
        (f"id,url,kind\n1,{CAT},cat\n", "no column named label"),
        (f'"{CAT},cat\n{DOG},dog\n', "has a line break: is a quotation mark missing"),
        (b"\xff\xfe\xff", "text"),
    ],
)
def test_file_that_is_no_list_is_an_error(read: Read, text: str | bytes, why: str) -> None:
    with pytest.raises(UsersError, match=why):
        read(text)


def test_password_does_not_identify_an_image(read: Read) -> None:
    first, second, other = read("https://me:pw@a.example/1,cat\nhttps://a.example/1#x,cat\nhttps://a.example/1?a,cat")

    assert first.key == second.key != other.key
