"""Label Studio's answers about one project, so that several parts can share them."""

from collections.abc import Callable, Sequence
from typing import Any

from my_backend.errors import LabelStudioError, LabelStudioUnreachable
from my_backend.label_studio.client import LabelStudio

Json = dict[str, Any]


class Snapshot:
    """Makes each request when its result is first needed, and only once. All methods raise LabelStudioError.

    If Label Studio doesn't respond at all, the other requests fail at once instead of waiting for it, too.
    """

    def __init__(self, label_studio: LabelStudio, project_id: int) -> None:
        self.label_studio, self.project_id = label_studio, project_id
        self._answers: dict[Callable[[int], Any], Any] = {}
        self._unreachable: LabelStudioUnreachable | None = None

    def project(self) -> Json:
        """The project's settings."""
        return dict(self._answer(self.label_studio.project))

    def backends(self) -> Sequence[Json]:
        """The project's models; Label Studio requests predictions from the first one.

        Label Studio calls each of them before it answers: their state and version are current.
        """
        return sorted(self._answer(self.label_studio.backends), key=lambda one: int(one.get("id") or 0))

    def webhooks(self) -> Sequence[Json]:
        """The project's webhooks, with their headers."""
        return list(self._answer(self.label_studio.webhooks))

    def watermark(self) -> str:
        """A string that changes whenever an annotation of the project changes."""
        return str(self._answer(self.label_studio.watermark))

    def expire(self) -> None:
        """Makes all requests again when needed; call it after a change in Label Studio."""
        self._answers.clear()

    def _answer(self, question: Callable[[int], Any]) -> Any:
        if self._unreachable:
            raise self._unreachable
        if question not in self._answers:
            try:
                self._answers[question] = question(self.project_id)
            except LabelStudioError as error:
                self._answers[question] = error
                if isinstance(error, LabelStudioUnreachable):
                    self._unreachable = error
        answer = self._answers[question]
        if isinstance(answer, LabelStudioError):
            raise answer
        return answer
