"""Errors that users can fix; `web/middleware/error_handlers.py` turns them into HTTP responses."""

from safe_http.redaction import redact


class BackendError(Exception):
    """An error that a user can fix; the message says what is wrong and what to do.

    The texts may come from other libraries, so secrets are removed from the message.
    """

    status = 500

    def __str__(self) -> str:
        return redact(super().__str__())


class BadRequest(BackendError):
    status = 400


class NotFound(BackendError):
    status = 404


class Conflict(BackendError):
    status = 409


class Forbidden(BackendError):
    status = 403


class TooSlow(BackendError):
    status = 408


class LengthRequired(BackendError):
    status = 411


class TooLarge(BackendError):
    status = 413


class UnsupportedBody(BackendError):
    status = 415


class TooMany(BackendError):
    """More than the backend keeps; the message says what to remove."""

    status = 507


class Unavailable(BackendError):
    status = 503


class LabelStudioError(BackendError):
    """A request to Label Studio failed or was refused: `why`, and what to do if that isn't obvious."""

    status = 502

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(f"{why}; {hint}" if hint else why)
        self.why, self.hint = redact(why), hint


class LabelStudioDown(LabelStudioError):
    """Label Studio can't be reached, or fails at the moment: the same request may succeed later.

    That includes answers in another format: a proxy shows a page while Label Studio restarts, or cuts off the answer.
    """


class LabelStudioUnreachable(LabelStudioDown):
    """There is no connection to Label Studio, so other requests would fail, too."""


class NotInLabelStudio(LabelStudioError):
    """Label Studio answered 404: what was requested doesn't exist, or the token's owner has no access to it."""


class AnswerTooLarge(LabelStudioError):
    """Label Studio's answer is larger than allowed."""


class TokenRefused(LabelStudioError):
    """Label Studio requires a token, or a different one."""


class NotDelivered(BackendError):
    """The receiver at NOTIFY_URL didn't accept a notification; it may do so later."""


class NotificationRefused(NotDelivered):
    """The receiver at NOTIFY_URL will never accept this notification."""


class MediaError(BackendError):
    """An image that can't be fetched or read; `reason` is one of `IMAGE_REASONS` in `counters/in_process.py`."""

    status = 422

    def __init__(self, message: str, reason: str = "other") -> None:
        super().__init__(message)
        self.reason = reason


class TrainingError(BackendError):
    """Training can't continue; the message is a sentence for the people who label."""

    status = 422


class Stopped(BackendError):
    """Raised inside background work to end it: it was canceled, or the process is shutting down."""

    status = 409


class TakenOver(Stopped):
    """Raised inside a job that another process has taken over."""
