"""What a fix changes in Label Studio. Rules only name these changes; the doctor makes them if the user agrees."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from my_backend.active_learning.title import Title, TitleStatus
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project

RENAMES = 5  # that may be lost one after the other


@dataclass(frozen=True)
class AddWebhook:
    """Adds a webhook for all events; its headers may contain a password."""

    project: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def perform(self, label_studio: LabelStudio) -> None:
        label_studio.add_webhook(self.project, self.url, self.headers)


@dataclass(frozen=True)
class ChangeWebhook:
    """Changes fields of a webhook; they may contain a password."""

    webhook: int
    fields: Mapping[str, Any] = field(repr=False)

    def perform(self, label_studio: LabelStudio) -> None:
        label_studio.change_webhook(self.webhook, **self.fields)


@dataclass(frozen=True)
class DeleteWebhook:
    webhook: int

    def perform(self, label_studio: LabelStudio) -> None:
        label_studio.delete_webhook(self.webhook)


@dataclass(frozen=True)
class ChooseModel:
    """Has a project use a model's predictions; `title` is the model's."""

    project: int
    title: str

    def perform(self, label_studio: LabelStudio) -> None:
        label_studio.change_project(self.project, model_version=self.title)


@dataclass(frozen=True)
class RenameModel:
    """Gives the model the live version's name as its title, and has the project use it."""

    project: Project  # its folder remembers the user's title
    title: TitleStatus
    live: str
    kept: bool

    def perform(self, label_studio: LabelStudio) -> None:
        title, status = Title(Snapshot(label_studio, self.project.id), self.project.folder), self.title
        for _ in range(RENAMES):
            title.put(status, self.live, kept=self.kept)
            # Label Studio saves each model that it lists: a list for someone else may have brought the old title back.
            status = title.look(self.live, renewing=False)
            if status.state != "out of sync":
                break
