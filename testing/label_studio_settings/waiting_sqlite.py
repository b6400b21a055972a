"""Label Studio's own settings, but a request waits for others that write to SQLite.

Otherwise a transaction that has read something fails at once with "database is locked" if another request writes before
it does. Label Studio then repeats the request, although a part of it is done: its counters stay wrong.
"""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "label_studio.core.settings.label_studio"  # they look themselves up
from label_studio.core.settings.label_studio import *  # type: ignore[import-not-found, unused-ignore] # noqa: F403

DATABASES["default"]["OPTIONS"] |= {"transaction_mode": "IMMEDIATE", "timeout": 60}  # type: ignore[name-defined] # noqa: F405
