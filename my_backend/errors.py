"""What can go wrong, each with its remedy in the message; `server` maps them to HTTP in one place."""


class BackendError(Exception):
    """Something a user can mend; the message says what is wrong and how."""

    status = 500


class BadRequest(BackendError):
    status = 400


class NotFound(BackendError):
    status = 404


class Conflict(BackendError):
    status = 409


class TooSlow(BackendError):
    status = 408


class LengthRequired(BackendError):
    status = 411


class TooLarge(BackendError):
    status = 413


class UnsupportedBody(BackendError):
    status = 415


class TooMany(BackendError):
    """More than is kept; the message says what to remove."""

    status = 507


class Unavailable(BackendError):
    status = 503


class LabelStudioError(BackendError):
    """Label Studio could not be asked, or refused."""

    status = 502


class TokenRefused(LabelStudioError):
    """Label Studio wants a token, or another one."""


class MediaError(BackendError):
    """An image that cannot be had; `reason` is one of few words, to count by (`metrics.IMAGE_REASONS`)."""

    status = 422

    def __init__(self, message: str, reason: str = "other") -> None:
        super().__init__(message)
        self.reason = reason


class TrainingError(BackendError):
    """Training cannot go on; the message is a sentence for those who label."""

    status = 422


class JobStopped(BackendError):
    """Raised inside a job to end it: it was canceled, or the process shuts down."""

    status = 409


class TakenOver(JobStopped):
    """Raised inside a job that another process runs by now."""
