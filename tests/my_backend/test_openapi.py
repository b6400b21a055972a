import re

from tests.my_backend.conftest import Client


def test_every_route_is_described_and_nothing_else(client: Client) -> None:
    document = client.get("/openapi.json")
    app = client.http.application

    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}

    assert described == routes
    assert document["openapi"].startswith("3.")


def test_requests_are_described_with_label_studios_names(client: Client) -> None:
    paths = client.get("/openapi.json")["paths"]

    setup = paths["/setup"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert setup["required"] == ["project"]
    assert set(setup["properties"]) == {"project", "schema", "hostname", "access_token"}
    assert paths["/api/jobs/{job_id}/cancel"]["post"]["parameters"][0]["name"] == "job_id"
    assert paths["/train"]["post"]["summary"].startswith("Starts a training")


def test_every_post_with_a_body_says_so(client: Client) -> None:
    paths = client.get("/openapi.json")["paths"]

    without = {path for path, methods in paths.items() if "post" in methods and "requestBody" not in methods["post"]}

    assert without == {"/api/jobs/{job_id}/cancel"}


def test_image_may_be_uploaded_or_named(client: Client) -> None:
    paths = client.get("/openapi.json")["paths"]

    content = paths["/api/models/retrain"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["properties"]
    assert form["image"]["format"] == "binary"
    assert set(form) - {"image"} == set(content["application/json"]["schema"]["properties"])
    assert set(form) == {"image", "url", "label", "project"}
