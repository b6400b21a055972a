"""The check of NOTIFY_URL."""

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.rules.notifications import not_delivered
from my_backend.errors import NotDelivered
from my_backend.notifications.outbox import Outbox
from my_backend.notifications.receiver import Receiver
from my_backend.settings import Settings


def check_notifications(settings: Settings) -> Check:
    """Whether the receiver's host answers, and the last notification was delivered; sends none."""
    if not settings.notify_url.get_secret_value():
        return Check("notifications", "off: NOTIFY_URL is not set")
    receiver = Receiver(settings)
    try:
        receiver.check_reachable()
        failure = Outbox(settings.model_dir / "projects").failure()
    except NotDelivered as error:
        failure = str(error)
    said = f"to {receiver.host}, which is reachable; `python -m my_backend notify` sends a test"
    return Check("notifications", said, (not_delivered(failure),) if failure else ())
