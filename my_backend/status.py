"""What people look at: the status page, and what it says is amiss."""

from typing import Any

from flask import render_template

from my_backend.backend import Backend
from my_backend.label_config import parse_label_config
from my_backend.projects import Project
from my_backend.versions import Version, Versions

SHOWN_VERSIONS = 10
SHOWN_JOBS = 10


def page(backend: Backend) -> str:
    """The status page as HTML."""
    return render_template(
        "status.html",
        problems=problems(backend),
        projects=[_project(backend, project) for project in backend.projects.all()],
        ready=backend.serving.ready,
        protected=backend.settings.basic_auth is not None,
    )


def problems(backend: Backend) -> list[str]:
    """What is amiss and what to do, in words; from memory."""
    found = backend.serving.problems()
    if problem := backend.queue.problem():
        found.append(problem)
    if not backend.settings.label_studio_api_key.get_secret_value():
        found.append(
            "LABEL_STUDIO_API_KEY is not set: only the token that Label Studio hands over when it connects is used, "
            "which works where legacy tokens are enabled. Make a personal access token in Label Studio (Account & "
            "Settings) and set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
        )
    for project in backend.projects.all():
        config = parse_label_config(project.label_config, backend.settings.choices)
        if config.problem:
            found.append(f"Project {project.title or project.id}: {config.problem}")
    return found


def version_record(version: Version) -> dict[str, Any]:
    """A version for programs."""
    output = version.train_output
    return {
        "version": version.name,
        "created_at": version.created,
        "cause": version.cause,
        "held_back": version.held_back or None,
        "grew_from": version.grew_from or None,
        "figures": output.get("figures"),
        "labels": output.get("labels"),
        "annotations": output.get("annotations"),
        "unknown_choices": output.get("unknown_choices"),
        "summary": output.get("summary"),
        "warning": output.get("warning") or None,
    }


def _project(backend: Backend, project: Project) -> dict[str, Any]:
    versions = Versions(backend.projects.folder(project.uid))
    jobs = backend.job_store.of_project(project.uid)
    return {
        "project": project,
        "unlearned": backend.projects.changes(project.uid).unlearned(),
        "live": backend.serving.version_name(project.uid),
        "versions": [version_record(versions.get(name)) for name in versions.names()[::-1][:SHOWN_VERSIONS]],
        "jobs": jobs[::-1][:SHOWN_JOBS],
    }
