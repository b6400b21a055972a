"""The Flask application: the routes, the page, and what stands around every request."""

from flask import Flask

from my_backend.backend import Backend
from my_backend.metrics.counts import RequestCounts
from my_backend.page.routes import Page
from my_backend.web.accounting import account, with_request_id
from my_backend.web.guards import guard, keep_threads_for_predictions
from my_backend.web.refusals import handle_errors
from my_backend.web.routes import Routes

MAX_BODY_BYTES = 256_000_000


def create_app(backend: Backend) -> Flask:
    """The Flask application; the backend's threads are started by whoever serves it."""
    app = Flask("my_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    counts = RequestCounts()
    page = Page(backend)
    app.register_blueprint(page.blueprint())
    routes = Routes(backend, counts, page)
    account(app, counts)
    for (method, path), handler in routes.table().items():
        app.add_url_rule(path, f"{method} {path}", handler, methods=[method])
    guard(app, backend.settings.basic_auth, backend.webhook_password.refused)
    keep_threads_for_predictions(app)
    handle_errors(app, counts)
    app.wsgi_app = with_request_id(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app
