"""Recommendations from Flask. Under gunicorn the master process loads the bundle once, and the workers share it.

HIERSREC_BUNDLE=bundle gunicorn -c examples/gunicorn.conf.py
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, cast

from flask import Flask, Response, jsonify, request

from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import InvalidArgumentError


def create_app(bundle: str | None = None) -> Flask:
    app = Flask(__name__)
    # Not at the first request: gunicorn's preload_app calls this before it forks the workers.
    recommender = Recommender.load(bundle or os.environ["HIERSREC_BUNDLE"])

    @app.post("/recommend")
    def recommend() -> Response:
        body: Any = request.get_json()
        asked = cast("dict[str, Any]", body if isinstance(body, dict) else {})
        # The recommender checks its arguments; its errors name the argument, the limit and the value.
        result = recommender.recommend(
            asked.get("session", body), asked.get("k", 20), exclude_seen=asked.get("exclude_seen", False)
        )
        return jsonify(
            items=[asdict(hit) for hit in result], mode=result.mode, unknown_ids=result.unknown_ids
        )

    @app.get("/health")
    def health() -> Response:
        return jsonify(items=len(recommender.catalog))

    @app.errorhandler(InvalidArgumentError)
    def bad_input(error: InvalidArgumentError) -> tuple[Response, int]:
        return jsonify(error=type(error).__name__, detail=str(error)), 422

    @app.after_request
    def name_worker(response: Response) -> Response:
        response.headers["X-Worker"] = str(os.getpid())  # the worker that answered, for the logs
        return response

    return app
