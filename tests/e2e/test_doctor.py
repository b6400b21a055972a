"""What the doctor finds and fixes in a real Label Studio, in addition to test_complaints.py."""

from testing.label_studio import LabelStudio
from tests.e2e.consultations import consult, consult_as_a_process
from tests.e2e.projects import Digits, Serve, make_project, wait_for_new_version

QUICK = {"IMAGE_SIZE": "64", "WEIGHTS": "none"}


def test_broken_webhooks_are_named_and_fixed(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    backend = serve(**QUICK)
    project, _, _ = make_project(label_studio, digits, annotated=1, others=1)
    connection = label_studio.connect(project, backend.url)
    assert consult(backend).problems == {}
    [hook] = label_studio.webhooks(project)
    path = f"/api/webhooks/{hook['id']}/"
    made = {name: hook[name] for name in ("url", "send_payload", "send_for_all_actions", "is_active")}

    def mended(code: str) -> None:
        found = consult(backend)
        assert (found.status, set(found.problems)) == (1, {code})
        found = consult(backend, "--fix", "--yes")
        assert (found.record["failed"], len(found.record["mended"]), found.problems) == ([], 1, {})

    for wrong in ({"is_active": False}, {"send_for_all_actions": False, "actions": ["TASKS_CREATED"]}):
        label_studio.request("PATCH", path, json=wrong)
        mended("webhook-missing")
    label_studio.request("DELETE", path)
    mended("webhook-missing")
    label_studio.request("POST", "/api/webhooks/", json={**made, "project": project})
    mended("webhook-twice")
    [again] = label_studio.webhooks(project)
    assert {name: again[name] for name in made} == made

    label_studio.disconnect(project, connection)
    found = consult(backend, "--fix", "--yes")
    assert found.record["mended"] == [f"delete the webhook {backend.url}/webhook"]
    assert set(found.problems) == {"not-connected"}
    assert label_studio.webhooks(project) == []


def test_webhook_without_the_password_gets_it(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    backend = serve(BASIC_AUTH_USER="me", BASIC_AUTH_PASS="secret", LABEL_STUDIO_API_KEY="", **QUICK)
    project, _, _ = make_project(label_studio, digits, annotated=0, others=1)
    label_studio.connect(project, backend.url, basic_auth=("me", "secret"))
    token = {"LABEL_STUDIO_API_KEY": label_studio.personal_access_token}

    assert set(consult(backend, **token).problems) == {"webhook-credentials"}
    assert consult(backend, "--fix", "--yes", **token).problems == {}
    assert label_studio.webhooks(project)[0]["headers"]["Authorization"].startswith("Basic ")


def test_of_several_models_it_is_said_which_one_is_asked(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    another, ours = serve(**QUICK), serve(**QUICK, TRAIN_MODE="head")
    project, _, _ = make_project(label_studio, digits, annotated=20, others=0)
    first = label_studio.connect(project, another.url, title="another")
    label_studio.start_training(label_studio.connect(project, ours.url))
    wait_for_new_version(ours, project, "untrained")
    found = consult(ours)
    assert found.problems == consult_as_a_process(ours).problems
    assert set(found.problems) == {"several-models"}
    assert f"another at {another.url.removeprefix('http://')}" in found.problems["several-models"]

    label_studio.disconnect(project, first)
    assert set(consult(ours, "--fix", "--yes").problems) == set()
