"""The Flask application: the routes, the page, and what applies to every request."""

from flask import Flask, Response

from my_backend.backend import Backend
from my_backend.counters.in_process import RequestCounts
from my_backend.web.api.accepting import AcceptEndpoints
from my_backend.web.api.embeddings import EmbeddingEndpoints
from my_backend.web.api.image_map import MapEndpoints
from my_backend.web.api.jobs import JobEndpoints
from my_backend.web.api.labeling import LabelingEndpoints
from my_backend.web.api.labeling_configs import LabelingConfigEndpoints
from my_backend.web.api.openapi import OpenApiEndpoints
from my_backend.web.api.projects import ProjectEndpoints
from my_backend.web.api.protocol import ProtocolEndpoints
from my_backend.web.api.single_image import SingleImageEndpoints
from my_backend.web.api.status import StatusEndpoints
from my_backend.web.api.versions import VersionEndpoints
from my_backend.web.endpoint import add_endpoints, body_limits
from my_backend.web.middleware.admission import until_sent
from my_backend.web.middleware.auth import guard, keep_threads_free
from my_backend.web.middleware.deadlines import Deadlines
from my_backend.web.middleware.error_handlers import handle_errors
from my_backend.web.middleware.parsing import receive_bodies
from my_backend.web.middleware.request_log import account, with_request_id
from my_backend.web.pages.routes import Pages, refused
from my_backend.web.plain_json import PlainJson
from my_backend.web.prometheus.collector import Exposition


def create_app(backend: Backend) -> Flask:
    """The Flask application; the caller has to start the backend's threads afterward.

    Adding routes parses source code. In Python 3.11 this may raise SystemError (gh-106905) while another thread does
    the same, for example to log an exception.
    """
    app = Flask("my_backend", static_folder=None)
    app.json = PlainJson(app)
    counts = RequestCounts()
    pages = Pages(backend)
    app.register_blueprint(pages.blueprint())
    account(app, counts)
    app.after_request(_guarded)
    described, max_image_bytes = _endpoints(backend, counts, pages), backend.settings.max_image_bytes
    document = OpenApiEndpoints(described, protected=backend.settings.basic_auth is not None)
    groups = [*described, document]
    add_endpoints(app, groups, max_image_bytes)
    app.add_url_rule("/api", "page.api", lambda: pages.api(document.description()), methods=["GET"])
    guard(
        app,
        backend.settings.basic_auth,
        event_refused=backend.webhook_password.refused,
        came_through_proxy=backend.came_through_proxy.set,
        refusing_page=refused,
    )
    keep_threads_free(app)
    deadlines = Deadlines()
    receive_bodies(app, body_limits(groups, max_image_bytes), deadlines)
    handle_errors(app, counts, pages.error)
    app.wsgi_app = with_request_id(until_sent(app.wsgi_app, deadlines))  # type: ignore[method-assign, assignment]
    return app


def _endpoints(backend: Backend, counts: RequestCounts, pages: Pages) -> list[object]:
    """The groups of endpoints, in the order of the OpenAPI document; it comes last."""
    return [
        StatusEndpoints(backend, pages),
        ProtocolEndpoints(backend, counts),
        SingleImageEndpoints(backend),
        JobEndpoints(backend),
        EmbeddingEndpoints(backend),
        VersionEndpoints(backend),
        LabelingConfigEndpoints(backend.settings),
        LabelingEndpoints(backend),
        MapEndpoints(backend),
        AcceptEndpoints(backend),
        ProjectEndpoints(backend),
        Exposition(backend, counts),
    ]


def _guarded(response: Response) -> Response:
    """For every answer: browsers must not guess its type, and cache it only if it says so."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
