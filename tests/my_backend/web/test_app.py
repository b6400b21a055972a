"""What all answers have in common."""

from typing import Any

from tests.my_backend.conftest import Client


def test_every_answer_says_how_browsers_may_take_and_keep_it(client: Client) -> None:
    def ask(method: str, path: str, **given: Any) -> Any:
        with client.http.open(path, method=method, **given) as answer:  # what it holds is free for the next one
            return answer

    stored = {"If-None-Match": ask("GET", "/static/page.css").headers["ETag"]}
    answers = [
        *(ask(method, path) for method, path in client.routes()),
        ask("GET", "/unknown"),
        ask("POST", "/health"),
        ask("POST", "/predict", data=b"{"),
        ask("POST", "/predict", headers={"Transfer-Encoding": "chunked"}),
        ask("POST", "/validate", headers={"Origin": "http://evil.example"}),
        ask("GET", "/static/page.css", headers=stored),
        ask("GET", "/static/unknown"),
    ]

    codes = {answer.status_code for answer in answers}
    assert codes >= {200, 304, 400, 403, 404, 405, 411}
    assert 503 not in codes, "each was answered by its own endpoint"
    assert {answer.headers.get("X-Content-Type-Options") for answer in answers} == {"nosniff"}
    assert [answer.request.path for answer in answers if not answer.headers.get("Cache-Control")] == []


def test_no_answer_allows_other_sites_to_read_it(client: Client) -> None:
    response = client.http.options("/predict", headers={"Origin": "http://evil.example"})

    assert not [name for name, _ in response.headers if name.lower().startswith("access-control-")]
