"""The routes of the web page. They show what the backend has stored; no request asks another service."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, make_response, render_template, request, url_for
from markupsafe import Markup

from my_backend.backend import Backend
from my_backend.errors import Conflict, NotFound
from my_backend.labeling.auto_accept.guarantee import PERCENTS
from my_backend.log.recent import recent_lines
from my_backend.projects.project import Project
from my_backend.projects.version_metrics import like_the_newest
from my_backend.projects.versions import KEPT_VERSIONS, UNTRAINED
from my_backend.settings import Shown, settings_in_force
from my_backend.web.bodies import Json
from my_backend.web.lookup import find_project
from my_backend.web.middleware.auth import is_known
from my_backend.web.pages import charts
from my_backend.web.pages import versions as version_views
from my_backend.web.pages.accepting import AcceptView, accept_view
from my_backend.web.pages.curves import table_of
from my_backend.web.pages.etag import entity_tag, fingerprint
from my_backend.web.pages.filters import add_filters
from my_backend.web.pages.operations import operations
from my_backend.web.pages.project import ProjectView, project_view, unreadable_view
from my_backend.web.pages.review import (
    MOST_SHOWN,
    SHOWN,
    SORTS,
    Wanted,
    mistake_tiles,
    page_of_label_studio,
    unsure_tiles,
)
from my_backend.web.pages.thumbnails import Thumbnails

log = logging.getLogger(__name__)

CHARTED_VERSIONS = 200
LISTED_VERSIONS = 50
SHOWN_CORRECTIONS = 60
IN_QUEUE = 200  # tasks in the address of the page Queue
MANY_PROJECTS = 8  # if there are more, the page has a search field
PICTURE_SECONDS = 24 * 3600  # an image's name is the hash of its content
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Pages:
    """A method for each page."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._thumbnails = Thumbnails(backend)
        self._fingerprint = fingerprint()

    def blueprint(self) -> Blueprint:
        """All pages except the first, which shares its URL with the health check."""
        page = Blueprint(
            "page", __name__, template_folder="templates", static_folder="static", static_url_path="/static"
        )
        add_filters(page)
        for path, view in (
            ("/system", self.system),
            ("/projects/<name>", self.now),
            ("/projects/<name>/versions", self.versions),
            ("/projects/<name>/versions/<version>", self.version),
            ("/projects/<name>/try", self.try_it),
            ("/projects/<name>/look", self.review),
            ("/projects/<name>/groups", self.groups),
            ("/projects/<name>/queue", self.queue),
            ("/projects/<name>/map", self.map),
            ("/projects/<name>/accept", self.accept),
            ("/projects/<name>/images/<digest>.jpg", self.image),
            ("/projects/<name>/tasks/<int:task>.jpg", self.image_of_task),
            ("/projects/<name>/pictures/<digest>.jpg", self.picture),
        ):
            page.add_url_rule(path, view.__name__, view, methods=["GET"])
        return page

    # --- all projects -------------------------------------------------------

    def projects(self) -> Response:
        """The first page: all projects, or those found by the search, and problems."""
        projects = self._backend.projects.all()
        wanted = (request.args.get("find") or "").strip()
        found = [one for one in projects if wanted.casefold() in f"{one.title} project {one.id}".casefold()]

        def render() -> str:
            views = [self._view(project) for project in found]
            return self._render(
                "projects.html",
                projects=sorted(views, key=lambda view: (not view.busy, view.title.casefold(), view.id)),
                total=len(projects),
                wanted=wanted,
                many=len(projects) > MANY_PROJECTS,
                protected=self._backend.settings.basic_auth is not None,
                busy=any(view.busy for view in views),
            )

        return self._answer(found, render, str(len(projects)))

    def _view(self, project: Project) -> ProjectView:
        """A project whose view fails doesn't affect the others."""
        try:
            return project_view(self._backend, project, shown_jobs=1)
        except Exception:
            log.exception("project %s: the page can't show it", project.uid)
            return unreadable_view(project)

    def problems(self) -> Response:
        """The page of problems and their fixes."""
        titles = {project.uid: project.title or f"Project {project.id}" for project in self._backend.projects.all()}
        return self._answer([], lambda: self._render("problems.html", titles=titles), *titles.values())

    def system(self) -> Response:
        """The settings and the last lines of the log; only for known callers."""
        known = is_known(self._backend.settings)
        settings, lines = (self._settings(), recent_lines()) if known else ([], [])
        return self._answer(
            [],
            lambda: self._render("system.html", known=known, settings=settings, lines=lines),
            str(known),
            repr(settings),
            *lines[-1:],
        )

    def _settings(self) -> list[Shown]:
        """All settings, those that someone has set first."""
        model_class = self._backend.serving.model_class
        own = model_class.settings() if model_class else None
        settings = settings_in_force(self._backend.settings, *([own] if own else []))
        return sorted(settings, key=lambda one: not one.given)

    def api(self, document: Json) -> Response:
        """The page that shows the OpenAPI document to people."""
        return _guarded(make_response(self._render("api.html", groups=operations(document))))

    # --- one project --------------------------------------------------------

    def now(self, name: str) -> Response:
        project = find_project(self._backend.projects, name)
        no_training = self._backend.serving.refusal_to_train()

        def render() -> str:
            view = project_view(self._backend, project)
            drawn = {
                job.job.id: {
                    name: charts.curves({"": points}, share=name == "accuracy") for name, points in job.curves.items()
                }
                for job in view.running
            }
            tables = {
                job.job.id: table_of({name: {"": points} for name, points in job.curves.items()})
                for job in view.running
            }
            choices = project.config.choices
            return self._render(
                "now.html",
                view=view,
                choices=choices,
                no_training=no_training,
                unlabeled=[name for name in choices if view.live and not view.live.labels.get(name)],
                charts=drawn,
                tables=tables,
                busy=view.busy,
                studio=self._label_studio_page(project, ""),
                forecast_chart=_forecast_chart(view.live) if view.live else None,
                sharing=self._backend.embedding_sharing.state(project),
            )

        return self._answer([project], render, no_training)

    def versions(self, name: str) -> Response:
        project = find_project(self._backend.projects, name)

        def render() -> str:
            view = project_view(self._backend, project)
            found = self._version_views(project)
            comparable = like_the_newest([one.figures for one in found])
            alike = [one for one, is_alike in zip(found, comparable, strict=True) if is_alike]
            return self._render(
                "versions.html",
                view=view,
                versions=found[::-1][:LISTED_VERSIONS],
                pinned=project.versions.pinned(),
                more=max(0, len(found) - LISTED_VERSIONS),
                chart=charts.accuracy_chart([(one.short, one.figures.accuracy or 0.0) for one in alike])
                if len(alike) > 1
                else None,
                others=sum(one.figures.accuracy is not None and not one.figures.labels_since for one in found)
                - len(alike),
                busy=view.busy,
            )

        return self._answer([project], render)

    def version(self, name: str, version: str) -> Response:
        project = find_project(self._backend.projects, name)
        other_name = request.args.get("with") or ""
        for one in filter(None, (version, other_name)):
            project.versions.get(one)  # raises NotFound, also for one that was deleted since it was read
        shown = version_views.read_version(project.folder, version)
        export, no_export = self._backend.exports.state(project, version), self._backend.exports.refusal()
        other = version_views.read_version(project.folder, other_name) if other_name else None

        def render() -> str:
            view = project_view(self._backend, project)
            bins = shown.figures.calibration or []
            wanted = _wanted()
            compared = version_views.compared_curves(shown, other)
            tiles, total = mistake_tiles(version_views.mistakes(shown), self._tasks_url(project), wanted)
            return self._render(
                "version.html",
                view=view,
                version=shown,
                pinned=shown.name in project.versions.pinned(),
                kept=KEPT_VERSIONS,
                export=export,
                no_export=no_export,
                other=other,
                others=[one for one in self._version_views(project)[::-1] if one.name != shown.name],
                comparable=other is not None
                and other.figures.measure == shown.figures.measure
                and not (other.figures.labels_since or shown.figures.labels_since),
                differences=version_views.differences(other, shown) if other else [],
                confusion=version_views.confusion_rows(shown.figures),
                calibration=charts.calibration_chart(bins) if bins else None,
                bins=bins,
                curves={
                    name: (list(series), charts.curves(series, share=name == "accuracy"))
                    for name, series in compared.items()
                },
                values=table_of(compared),
                forecast_chart=_forecast_chart(shown),
                tiles=tiles,
                total=total,
                more_url=_more_url(wanted),
                counted=version_views.confused(shown.figures, wanted.label, wanted.predicted),
                wanted=wanted,
                busy=view.busy or export.state == "making",
            )

        return self._answer([project], render, shown.name, other_name, repr(export), no_export)

    def try_it(self, name: str) -> Response:
        project = find_project(self._backend.projects, name)
        config, serving = project.config, self._backend.serving
        no_training = serving.refusal_to_train()
        is_pretrained = serving.model_class is not None and serving.model_class.predicts_untrained

        def render() -> str:
            view = project_view(self._backend, project)
            tag = config.image_choices
            found = project.corrections.newest_first()
            return self._render(
                "try.html",
                view=view,
                tag=tag,
                problem=config.problem,
                no_training=no_training,
                is_pretrained=is_pretrained,
                corrections=found[:SHOWN_CORRECTIONS],
                corrections_total=len(found),
                busy=view.busy,
            )

        return self._answer([project], render, no_training, str(is_pretrained))

    def review(self, name: str) -> Response:
        project = find_project(self._backend.projects, name)

        def render() -> str:
            view = project_view(self._backend, project)
            url = self._tasks_url(project)
            wanted, media = _wanted(), self._backend.open_media(project)
            unsure, unsure_total = unsure_tiles(self._backend.recent.of(project.uid), media, url, wanted)
            found = version_views.mistakes(view.live) if view.live else []
            likely, likely_total = mistake_tiles((one for one in found if one.is_likely), url, wanted)
            others, others_total = mistake_tiles((one for one in found if not one.is_likely), url, wanted)
            return self._render(
                "review.html",
                view=view,
                wanted=wanted,
                sorts=SORTS,
                choices=project.config.choices,
                unsure=unsure,
                unsure_total=unsure_total,
                likely=likely,
                likely_total=likely_total,
                others=others,
                others_total=others_total,
                more_url=_more_url(wanted),
                unlikely=version_views.UNLIKELY,
                tells=all(one.label_probability is not None for one in found),
                busy=view.busy,
            )

        return self._answer([project], render)

    def groups(self, name: str) -> Response:
        """The page on which look-alikes are labeled together; its script gets them from the API."""
        return self._labeling_page("groups.html", name)

    def queue(self, name: str) -> Response:
        """The page on which images are labeled one by one; its script gets them from the API."""
        return self._labeling_page("queue.html", name)

    def map(self, name: str) -> Response:
        """Shows all images at once, and lets people label some of them; its script gets them from the API."""
        return self._labeling_page("map.html", name)

    def _labeling_page(self, template: str, name: str) -> Response:
        """A page on which people label, with their own token if it is needed."""
        project = find_project(self._backend.projects, name)
        known = is_known(self._backend.settings)

        def render() -> str:
            view = project_view(self._backend, project)
            blind, url = self._is_blind(project), self._tasks_url(project)
            return self._render(template, view=view, known=known, blind=blind, tasks_url=url, busy=view.busy)

        return self._answer([project], render, str(known))

    def _is_blind(self, project: Project) -> bool:
        """Whether the backend has no token of its own for the project."""
        problems = self._backend.summary.problems()
        return any(one.code == "no-token" and one.project in ("", project.uid) for one in problems)

    def accept(self, name: str) -> Response:
        """Accepts predictions without review; while it is open, people's labels of the sample are read again."""
        project = find_project(self._backend.projects, name)
        known = is_known(self._backend.settings)
        config = project.config
        acceptor, counts = self._backend.acceptor, self._backend.pools.counts(project.uid)
        automatic = acceptor.store.automatic(project.uid)
        try:
            now = accept_view(automatic, acceptor.state(project), counts, self._tasks_url(project))
        except Conflict as error:  # the plan can't be read; people can replace it here
            now = AcceptView(automatic, "unreadable", str(error))

        def render() -> str:
            view = project_view(self._backend, project)
            return self._render(
                "accept.html",
                view=view,
                now=now,
                known=known,
                blind=self._is_blind(project),
                percents=PERCENTS,
                in_queue=IN_QUEUE,
                choices=config.choices,
                busy=view.busy,
            )

        return self._answer([project], render, str(known), repr(now))

    def image(self, name: str, digest: str) -> Response:
        """A thumbnail."""
        return self._jpeg(self._thumbnails.get(find_project(self._backend.projects, name), digest))

    def image_of_task(self, name: str, task: int) -> Response:
        """The thumbnail of a task's image, if the image was collected for labeling."""
        project = find_project(self._backend.projects, name)
        digest = self._backend.pools.digest(project.uid, task)
        return Response(status=302, headers={"Location": url_for("page.image", name=name, digest=digest)})

    def picture(self, name: str, digest: str) -> Response:
        """An image that is large enough to be labeled."""
        return self._jpeg(self._thumbnails.large(find_project(self._backend.projects, name), digest))

    def _jpeg(self, content: bytes) -> Response:
        response = Response(content, mimetype="image/jpeg")
        response.headers["Cache-Control"] = f"private, max-age={PICTURE_SECONDS}, immutable"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    def _version_views(self, project: Project) -> list[version_views.VersionView]:
        """From the oldest to the newest."""
        views = []
        for name in project.versions.names()[-CHARTED_VERSIONS:]:
            with suppress(NotFound):  # removed in the meantime
                views.append(version_views.read_version(project.folder, name))
        return views

    def _tasks_url(self, project: Project) -> str:
        return self._label_studio_page(project, f"projects/{project.id}/data")

    def _label_studio_page(self, project: Project, path: str) -> str:
        """A URL with Label Studio's own name for its host, which works in a browser more often than the backend's."""
        credentials = self._backend.projects.credentials(project.uid)
        hostname = credentials.hostname if credentials else self._backend.settings.label_studio_url
        return page_of_label_studio(hostname, path)

    # --- rendering ----------------------------------------------------------

    def _render(self, template: str, *, busy: bool = False, **values: Any) -> str:
        return render_template(
            f"page/{template}",
            problems=self._backend.summary.problems(),
            busy=busy,
            asking=self._backend.monitor.asking,
            untrained=UNTRAINED,
            **values,
        )

    def _answer(self, projects: Sequence[Project], render: Any, *shown: str) -> Response:
        """The rendered page, or 304 if the browser already has it."""
        tag = entity_tag(self._backend, projects, self._fingerprint, request.full_path, *shown)
        response = Response(status=304) if tag in request.if_none_match else make_response(render())
        response.set_etag(tag)
        return _guarded(response)

    def error(self, said: str) -> Response:
        """The page that shows an error; it has no script, because nothing on it changes."""
        return _guarded(make_response(self._render("error.html", error=said)))


def _wanted() -> Wanted:
    """The filter in the page's address."""
    label, predicted, sort = (request.args.get(name) or "" for name in ("label", "predicted", "sort"))
    shown = request.args.get("shown", SHOWN, type=int)
    return Wanted(label, predicted, sort, min(max(shown, SHOWN), MOST_SHOWN))


def _more_url(wanted: Wanted) -> str:
    """The address of this page with twice as many images in each list; "" if there would be too many."""
    if wanted.shown >= MOST_SHOWN:
        return ""
    return "?" + urlencode({**request.args, "shown": 2 * wanted.shown})


def _forecast_chart(version: version_views.VersionView) -> Markup | None:
    found = version.figures.forecast
    return charts.forecast_chart(found) if found and found.expected else None


def refused(why: str) -> Response:
    """The page for people who aren't allowed to see any other page."""
    response = make_response(render_template("page/refused.html", error=why), 403)
    return _guarded(response)


def _guarded(response: Response) -> Response:
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Accept"
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
