import pytest
from flask import Flask

from my_backend.web.api.openapi import openapi
from my_backend.web.api.responses import Asked
from my_backend.web.bodies import Json, ProjectRequest
from my_backend.web.endpoint import add_endpoints, endpoint, endpoints_of


class Pets:
    @endpoint(
        "POST",
        "/pets/<name>",
        "/animals/<name>",
        answers={202: Asked},
        errors=(409,),
        query={"color": "of its fur"},
        former_paths=("/beasts/<name>",),
    )
    def stroke(self, name: str, body: ProjectRequest, color: str | None) -> tuple[Json, int]:
        """Strokes a pet."""
        return {"name": name, "project": body.project, "color": color}, 202


@pytest.mark.parametrize("path", ["/pets/cat", "/animals/cat", "/beasts/cat"])
def test_handler_gets_what_its_parameters_name(path: str) -> None:
    app = Flask("pets")
    add_endpoints(app, [Pets()], max_image_bytes=1)
    client = app.test_client()

    full = client.post(f"{path}?color=red", json={"project": "7.1"})
    empty = client.post(path)

    assert (full.status_code, full.json) == (202, {"name": "cat", "project": "7.1", "color": "red"})
    assert (empty.status_code, empty.json) == (202, {"name": "cat", "project": None, "color": None})


def test_document_comes_from_the_declaration() -> None:
    paths = openapi(endpoints_of(Pets()), protected=False)["paths"]

    assert set(paths) == {"/pets/{name}", "/animals/{name}"}
    assert paths["/pets/{name}"]["post"] == paths["/animals/{name}"]["post"]
    operation = paths["/pets/{name}"]["post"]
    assert operation["summary"] == "Strokes a pet."
    assert {"202", "409", "413"} < set(operation["responses"])
    assert [(one["name"], one["in"]) for one in operation["parameters"]] == [("name", "path"), ("color", "query")]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["$ref"].endswith("/ProjectRequest")


def test_parameter_that_no_request_has_is_refused_when_the_server_starts() -> None:
    with pytest.raises(TypeError, match="colour"):

        @endpoint("GET", "/pets", answers={200: Asked}, query={"color": "of its fur"})
        def find(self: object, colour: str) -> Json:
            return {}
