"""Recommendations from Flask. Under gunicorn the master process loads the bundle once, and the workers share it.

HIERSREC_BUNDLE=bundle gunicorn -c examples/gunicorn.conf.py
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import BadRequest, HTTPException

from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import InvalidArgumentError

# One request must not take the memory, or the time, of all others.
MOST_BYTES = 64 << 10  # of a body, some thousand clicks; more is 413
MOST_ITEMS = 1_000  # of an answer


def arguments() -> dict[str, Any]:
    """The arguments in the body of the request, ``{"session": [...], "k": 20, "exclude_seen": false}``."""
    request.get_data()
    request.stream.read(1)  # 413 if there is more: a body without a length is cut off at MOST_BYTES
    try:
        body: Any = request.get_json()
    except RecursionError:  # lists within lists within lists
        raise BadRequest("the JSON is nested too deeply") from None
    if not isinstance(body, dict):
        raise InvalidArgumentError('the body must be an object such as {"session": ["sku-00017"]}')
    asked: dict[str, Any] = {"session": None, "k": 20, "exclude_seen": False}
    known = len(asked)
    asked |= body
    if len(asked) > known:  # a misspelled name is an error
        raise InvalidArgumentError(f"there is no option {list(asked)[known][:50]!r}")
    if isinstance(asked["k"], int) and asked["k"] > MOST_ITEMS:
        raise InvalidArgumentError(f"k may be up to {MOST_ITEMS:,}")
    return asked


def create_app(bundle: str | None = None) -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    # Not at the first request: gunicorn's preload_app calls this before it forks the workers.
    recommender = Recommender.load(bundle or os.environ["HIERSREC_BUNDLE"])

    @app.post("/recommend")
    def recommend() -> Response:
        # The recommender checks its arguments; its errors name the argument, the limit and the value.
        result = recommender.recommend(**arguments())
        return jsonify(
            items=[asdict(hit) for hit in result], mode=result.mode, unknown_ids=result.unknown_ids
        )

    @app.get("/health")
    def health() -> Response:
        return jsonify(items=len(recommender.catalog))

    @app.errorhandler(InvalidArgumentError)
    def bad_input(error: InvalidArgumentError) -> tuple[Response, int]:
        return jsonify(error=type(error).__name__, detail=str(error)), 422

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.name, detail=error.description), error.code or 500

    @app.after_request
    def name_worker(response: Response) -> Response:
        response.headers["X-Worker"] = str(os.getpid())  # the worker that answered, for the logs
        return response

    return app
