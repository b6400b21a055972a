"""Finds the project of a request, and adds it to the log lines that follow."""

from my_backend import context
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects

PROJECT_QUERY = {"project": "id or id.created; optional if there is only one project"}


def find_project(projects: Projects, name: str | None) -> Project:
    """The project of this name, or the only one if `name` is None; raises NotFound like `Projects.find`."""
    project = projects.find(name)
    context.now_for(project=project.uid)
    return project


def remember_project(
    projects: Projects, uid: str, *, label_config: str | None = None, title: str | None = None
) -> Project:
    """The project with this uid, with what Label Studio says about it; a new one if it isn't known yet."""
    context.now_for(project=uid)
    return projects.remember(uid, label_config=label_config, title=title)
