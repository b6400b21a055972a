"""Looks at everything that the backend needs, in both directions, and says what is wrong and what to do."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.auth import HTTPBasicAuth

from my_backend.backend import check_folders
from my_backend.checkup import no_address, not_asked
from my_backend.connection import Connection, Mend, examine_connection
from my_backend.diagnosis import no_token
from my_backend.errors import BackendError, LabelStudioError, NotFound
from my_backend.image_samples import fetch_samples, samples_of
from my_backend.label_config import parse_label_config
from my_backend.label_studio import HOW_TO_MAKE_A_TOKEN, LabelStudio, find_label_studio
from my_backend.media import media_pool
from my_backend.model_class import ModelFactory
from my_backend.projects import Project, Projects
from my_backend.rq_queue import why_jobs_wait
from my_backend.settings import Settings
from my_backend.troubles import Trouble
from my_backend.usage import no_choice_any_more
from my_backend.versions import UNTRAINED, Versions
from my_backend.wire import project_uid

FREE_BYTES = 2_000_000_000  # a training of all layers writes a few hundred million
CLOCK_SECONDS = 60.0
TOKEN_DAYS = 14
SAMPLED_TASKS = 200  # from either end of a project
LOOKED_THROUGH = 50  # projects, where the backend knows none
SERVER_SECONDS = 10.0
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  what HOST may be; nothing listens here
# What only the running server knows; the rest of its troubles is looked at anew.
FROM_THE_SERVER = ("model", "images")

Json = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    said: str = ""  # what was found where nothing is wrong
    troubles: tuple[Trouble, ...] = ()
    mends: tuple[Mend, ...] = field(default=(), repr=False)

    def record(self) -> Json:
        """For programs."""
        return {"check": self.name, "said": self.said, "troubles": [trouble.record() for trouble in self.troubles]}


def examine(settings: Settings) -> Iterator[Check]:
    """All checks, one after the other; none of them changes anything but missing folders. Raises nothing expected."""
    folders = check_own_folders(settings)
    yield folders
    if folders.troubles:
        return
    yield check_disk(settings)
    server = check_server(settings)
    yield server
    if any(trouble.code == "server" for trouble in server.troubles):
        yield check_model(settings)
    yield check_jobs(settings)
    yield from _label_studio(settings)


def _label_studio(settings: Settings) -> Iterator[Check]:
    projects = Projects(settings.model_dir / "projects")
    configured = find_label_studio(settings, None)
    if configured is not None:
        checks = (check_release, check_clock, check_token)
        for check in checks:
            found = check(configured)
            yield found
            if found.troubles and found.troubles[0].code == "label-studio":
                break
    else:
        yield Check("token", troubles=(no_token(),))
    known = projects.all() or (_projects_with_models(configured) if configured else [])
    if not known:
        yield Check("projects", troubles=(_no_project(),))
    for project in known:
        yield from check_project(settings, projects, project)


def check_settings_file(error: str) -> Check:
    """`error` says which settings cannot be used, a line for each."""
    first, *faults = error.splitlines()
    remedy = "Correct them; docs/settings.md has all."
    return Check("settings", troubles=(Trouble("settings", first, remedy, details=tuple(map(str.strip, faults))),))


def check_own_folders(settings: Settings) -> Check:
    """Whether MODEL_DIR and CACHE_DIR can be written; makes them where they are missing."""
    try:
        check_folders(settings)
    except BackendError as error:
        return Check("folders", troubles=(Trouble("folders", f"{error}."),))
    return Check("folders", f"MODEL_DIR={settings.model_dir}, CACHE_DIR={settings.cache_dir}")


def check_disk(settings: Settings, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Check:
    """Whether there is room for new versions and images."""
    left = {name: free(path) for name, path in (("MODEL_DIR", settings.model_dir), ("CACHE_DIR", settings.cache_dir))}
    troubles = [
        Trouble(
            "disk",
            f"Only {size / 1e9:.1f} GB are free where {name} is.",
            "Make room there, or set it to a larger disk: a training that finds the disk full publishes nothing.",
        )
        for name, size in left.items()
        if size < FREE_BYTES
    ]
    return Check("disk", f"{min(left.values()) / 1e9:.0f} GB free", tuple(troubles))


def check_server(settings: Settings) -> Check:
    """Whether the server runs, and what it has found that nobody else can know."""
    host = "127.0.0.1" if settings.host in EVERYWHERE else settings.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    auth = HTTPBasicAuth(*(one.encode() for one in settings.basic_auth)) if settings.basic_auth else None
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{url}/troubles", auth=auth, timeout=SERVER_SECONDS)
        answer.raise_for_status()
        told = [Trouble(**{**one, "details": tuple(one["details"])}) for one in answer.json()["troubles"]]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        status = error.response.status_code if isinstance(error, requests.HTTPError) else None
        why = f"it answered {status}" if status else "nothing answers" if _refused(error) else "another program answers"
        return Check(
            "server",
            troubles=(
                Trouble(
                    "server",
                    f"This backend's server is not to be had at {url}: {why}.",
                    "Start it (`make start`, `make production`), or give the doctor the server's own settings: HOST, "
                    "PORT, BASIC_AUTH_USER and BASIC_AUTH_PASS.",
                ),
            ),
        )
    return Check("server", f"answers at {url}", tuple(one for one in told if one.code in FROM_THE_SERVER))


def _refused(error: Exception) -> bool:
    return isinstance(error, requests.ConnectionError | requests.Timeout)


def check_model(settings: Settings) -> Check:
    """Whether the model class loads, and what it says of its weights and its device."""
    pool = media_pool()
    try:
        model_class = ModelFactory(settings, Projects(settings.model_dir / "projects"), pool).load()
        warning = model_class.warm_up() if hasattr(model_class, "warm_up") else ""
    except Exception as error:  # a user's own class may raise anything
        warning = str(error)
    finally:
        pool.shutdown(cancel_futures=True)
    return Check("model", settings.model_class, (Trouble("model", warning),) if warning else ())


def check_jobs(settings: Settings) -> Check:
    """Redis and its workers, where they are used."""
    if not settings.redis:
        return Check("jobs", "run in the server's own process")
    problem = why_jobs_wait(settings)
    return Check("jobs", "Redis answers, workers listen", (Trouble("no-worker", f"{problem}."),) if problem else ())


def check_release(label_studio: LabelStudio) -> Check:
    """Whether Label Studio answers, and its version."""
    try:
        return Check("Label Studio", f"{label_studio.release() or 'of unknown version'} at {label_studio.url}")
    except LabelStudioError as error:
        return Check("Label Studio", troubles=(Trouble("label-studio", f"Label Studio could not be asked: {error}."),))


def check_clock(label_studio: LabelStudio) -> Check:
    """Tokens and version names go by the clock."""
    try:
        ahead = label_studio.seconds_ahead()
    except (LabelStudioError, ValueError):  # check_release has said it, or it names no time
        return Check("clock", "Label Studio's is not known")
    if abs(ahead) < CLOCK_SECONDS:
        return Check("clock", "as Label Studio's")
    way = "behind" if ahead > 0 else "ahead of"
    what = f"This machine's clock is {abs(ahead):.0f} s {way} Label Studio's."
    return Check("clock", troubles=(Trouble("clock", what, "Set both by NTP: tokens are valid by the clock."),))


def check_token(label_studio: LabelStudio) -> Check:
    """The token's kind, how long it lives, and whether Label Studio takes it."""
    token = label_studio.token()
    if not token.kind:
        return Check("token", troubles=(no_token(),))
    days = (token.expires - time.time()) / 86400
    if token.kind == "access token":
        what = "LABEL_STUDIO_API_KEY is an access token, which lives for minutes only."
        return Check("token", troubles=(Trouble("token-short", what, f"Instead, {HOW_TO_MAKE_A_TOKEN}."),))
    try:
        label_studio.projects(1)
    except LabelStudioError as error:
        return Check("token", troubles=(Trouble("token", f"{error}."),))
    if days < TOKEN_DAYS:
        what = f"LABEL_STUDIO_API_KEY ends in {days:.0f} days."
        return Check("token", troubles=(Trouble("token-ends", what, f"In time, {HOW_TO_MAKE_A_TOKEN}."),))
    return Check("token", f"a {token.kind} that Label Studio takes")


def _no_project() -> Trouble:
    return Trouble(
        "no-project",
        "No project is connected yet.",
        "In a project of Label Studio: Settings → Model → Connect Model. docs/troubleshooting.md says what to do where "
        "Label Studio refuses the address.",
    )


def _projects_with_models(label_studio: LabelStudio) -> list[Project]:
    """Those that have a model in Label Studio although none has ever called: something keeps it from calling."""
    try:
        newest = label_studio.projects(LOOKED_THROUGH)
        return [
            Project(project_uid(one), str(one.get("label_config") or ""), str(one.get("title") or ""))
            for one in newest
            if label_studio.backends(int(one["id"]))
        ]
    except (LabelStudioError, ValueError, KeyError):
        return []  # check_token has said it


def check_project(settings: Settings, projects: Projects, project: Project) -> Iterator[Check]:
    """Everything about one project."""
    name = f"project {project.id}{f' ({project.title})' if project.title else ''}"
    yield check_version(projects, project, name)
    credentials = projects.credentials(project.uid)
    label_studio = find_label_studio(settings, credentials)
    if label_studio is None:
        yield Check(f"{name}: connection", troubles=(no_address(project),))
        return
    try:
        connection = examine_connection(label_studio, project, settings.basic_auth)
        tasks = label_studio.tasks(project.id, SAMPLED_TASKS)
    except LabelStudioError as error:
        yield Check(f"{name}: connection", troubles=(not_asked(project, error),))
        return
    yield Check(f"{name}: connection", "in both directions", connection.troubles, connection.mends)
    yield check_training_rule(project, connection, name)
    config = parse_label_config(str(connection.project.get("label_config") or ""), settings.choices)
    if config.image_choices is None:
        yield Check(
            f"{name}: labeling config", troubles=(Trouble("labeling-config", config.problem, project=project.uid),)
        )
        return
    yield Check(f"{name}: labeling config", f"{len(config.choices)} choices in {config.image_choices.from_name}")
    samples = samples_of(tasks, config.image_choices.field)
    failed = {kind: why for kind, why in fetch_samples(settings, credentials, samples).items() if why}
    troubles = [
        Trouble("image", f"Images of the kind “{kind}” cannot be read: {why}.", project=project.uid)
        for kind, why in failed.items()
    ]
    yield Check(f"{name}: images", f"read: {', '.join(samples) or 'there are none yet'}", tuple(troubles))


def check_version(projects: Projects, project: Project, name: str) -> Check:
    """Whether the live version is there, and what it could not learn."""
    versions = Versions(projects.folder(project.uid))
    live = versions.live_name()
    try:
        version = versions.live()
    except NotFound:
        what = f"The live version {live} is not on the disk any more."
        remedy = "Bring MODEL_DIR back (is it mounted?), activate another version, or train."
        return Check(f"{name}: version", troubles=(Trouble("version-missing", what, remedy, project.uid),))
    unknown = version.train_output.get("unknown_choices") if version else None
    if isinstance(unknown, dict) and unknown:
        trouble = Trouble("choices-unknown", *no_choice_any_more(unknown), project.uid)
        return Check(f"{name}: version", troubles=(trouble,))
    return Check(f"{name}: version", live if live != UNTRAINED else "none yet: label some images, press Start training")


def check_training_rule(project: Project, connection: Connection, name: str) -> Check:
    """Whether Label Studio has everything trained at every annotation."""
    if connection.project.get("min_annotations_to_start_training") != 1:
        return Check(f"{name}: training", "by the button and by annotation events")
    what = "Label Studio asks for a whole training at every annotation, and saving one waits for the answer."
    remedy = (
        "In the project's Settings → Model, switch off “Start model training on annotation submission”: the backend "
        "learns from annotation events by itself (RETRAIN_AFTER_ANNOTATIONS)."
    )
    return Check(f"{name}: training", troubles=(Trouble("trains-on-submission", what, remedy, project.uid),))
