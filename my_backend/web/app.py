"""The Flask application: the routes, the page, and what applies to every request."""

from flask import Flask, Response

from my_backend.backend import Backend
from my_backend.metrics.counters import RequestCounts
from my_backend.web.api.routes import ALIASES, Routes
from my_backend.web.middleware.admission import until_sent
from my_backend.web.middleware.auth import guard, keep_threads_free
from my_backend.web.middleware.deadlines import Deadlines
from my_backend.web.middleware.error_handlers import handle_errors
from my_backend.web.middleware.parsing import receive_bodies
from my_backend.web.middleware.request_log import account, with_request_id
from my_backend.web.pages.routes import Page, refused


def create_app(backend: Backend) -> Flask:
    """The Flask application; the caller has to start the backend's threads."""
    app = Flask("my_backend", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    counts = RequestCounts()
    page = Page(backend)
    app.register_blueprint(page.blueprint())
    routes = Routes(backend, counts, page)
    account(app, counts)
    app.after_request(_guarded)
    table = routes.table()
    for (method, path), handler in table.items():
        app.add_url_rule(path, f"{method} {path}", handler, methods=[method])
    for (method, path), route in ALIASES.items():
        app.add_url_rule(path, f"alias {method} {path}", table[route], methods=[method])
    guard(
        app,
        backend.settings.basic_auth,
        event_refused=backend.webhook_password.refused,
        came_through_proxy=backend.came_through_proxy.set,
        refusing_page=refused,
    )
    keep_threads_free(app)
    deadlines = Deadlines()
    receive_bodies(app, backend.settings.max_image_bytes, deadlines)
    handle_errors(app, counts)
    app.wsgi_app = with_request_id(until_sent(app.wsgi_app, deadlines))  # type: ignore[method-assign, assignment]
    return app


def _guarded(response: Response) -> Response:
    """For every answer: browsers must not guess its type, and cache it only if it says so."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
