import inspect
import re
from typing import Any
from unittest.mock import Mock

import pytest

from my_backend.web.api import openapi
from tests.my_backend.conftest import Client, Serve, basic


def test_every_route_is_described_and_nothing_else(client: Client) -> None:
    document = client.get("/openapi.json")
    app = client.http.application

    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith(("page.", "alias "))  # for people, and for old scripts
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}

    assert described == routes
    assert document["openapi"].startswith("3.")


def schema_of(client: Client, reference: dict[str, str]) -> Any:
    return client.get("/openapi.json")["components"]["schemas"][reference["$ref"].rpartition("/")[2]]


def test_every_answer_is_described_errors_too(client: Client) -> None:
    for path, methods in client.get("/openapi.json")["paths"].items():
        for operation in methods.values():
            answers = operation["responses"]
            assert operation["summary"]
            assert any(status.startswith("2") for status in answers)
            assert all(answer["content"] and answer["description"] is not None for answer in answers.values()), path


def test_every_field_of_requests_and_responses_is_described(client: Client) -> None:
    document = client.get("/openapi.json")
    schemas = dict(document["components"]["schemas"])
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if form := content.get("multipart/form-data"):
            schemas[path] = form["schema"]
    fields = {
        f"{name}.{field}": part for name, schema in schemas.items() for field, part in schema["properties"].items()
    }

    assert len(fields) > 150
    assert [name for name, part in fields.items() if not part.get("description")] == []


def test_password_is_described_where_one_is_wanted(serve: Serve) -> None:
    with serve() as client:
        assert "securitySchemes" not in client.get("/openapi.json")["components"]
    with serve(basic_auth_user="user", basic_auth_pass="password") as client:
        document = client.get("/openapi.json", headers=basic("user", "password"))
    assert document["components"]["securitySchemes"]["password"]["scheme"] == "basic"
    wanted = {path for path, methods in document["paths"].items() if any("security" in one for one in methods.values())}
    assert set(document["paths"]) - wanted == {"/ready"}


def test_requests_are_described_with_label_studios_names(client: Client) -> None:
    paths = client.get("/openapi.json")["paths"]

    setup = schema_of(client, paths["/setup"]["post"]["requestBody"]["content"]["application/json"]["schema"])
    assert setup["required"] == ["project"]
    assert set(setup["properties"]) == {"project", "schema", "hostname", "access_token"}
    assert paths["/api/jobs/{job_id}/cancel"]["post"]["parameters"][0]["name"] == "job_id"
    assert paths["/train"]["post"]["summary"].startswith("Starts a training")


def test_every_post_with_a_body_says_so(client: Client) -> None:
    paths = client.get("/openapi.json")["paths"]

    without = {path for path, methods in paths.items() if "post" in methods and "requestBody" not in methods["post"]}

    assert without == {"/api/jobs/{job_id}/cancel", "/api/problems/check"}


def test_image_may_be_uploaded_or_named(client: Client) -> None:
    paths = client.get("/openapi.json")["paths"]

    content = paths["/api/models/retrain"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["properties"]
    assert form["image"]["format"] == "binary"
    named = schema_of(client, content["application/json"]["schema"]["allOf"][0])
    assert set(form) - {"image"} == set(named["properties"])
    assert set(form) == {"image", "url", "label", "project"}


def test_descriptions_are_left_out_if_the_source_code_is_gone(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    described = client.get("/openapi.json")["components"]["schemas"]["Error"]["properties"]["error"]
    assert described["description"].startswith("A sentence")
    monkeypatch.setattr(openapi, "_docstrings_of_fields", openapi._docstrings_of_fields.__wrapped__)
    monkeypatch.setattr(inspect, "getsource", Mock(side_effect=OSError("could not get source code")))

    without = client.get("/openapi.json")["components"]["schemas"]["Error"]["properties"]["error"]

    assert without == {key: value for key, value in described.items() if key != "description"}
