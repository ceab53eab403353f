"""Recommendations as a Celery task.

HIERSREC_BUNDLE=bundle celery -A examples.celery_task worker
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import InvalidArgumentError

MOST = 1_000  # clicks of a session, and items of an answer

app = Celery("examples.celery_task")
# Broker and result backend: CELERY_BROKER_URL and CELERY_RESULT_BACKEND, or a module of settings.
app.config_from_envvar("CELERY_CONFIG_MODULE", silent=True)


@cache
def recommender() -> Recommender:
    """The recommender, loaded once per worker process and never by clients, which only send tasks."""
    return Recommender.load(os.environ["HIERSREC_BUNDLE"])


@worker_process_init.connect
def load(**_: Any) -> None:
    recommender()  # the first task need not wait for it, and a missing bundle stops the worker at once


@app.task
def recommend(session: list[int | str], k: int = 20) -> list[dict[str, int | str | float | None]]:
    """The ``k`` best items after ``session``, as JSON values.

    An :class:`~hiersrec_sdk.errors.InvalidArgumentError` is not retried, since it would fail again; ``.get()`` raises
    it.
    """
    if len(session) > MOST or k > MOST:
        raise InvalidArgumentError(f"session and k may be up to {MOST:,}")
    return [
        {"item": hit.item, "score": hit.score, "title": hit.title}
        for hit in recommender().recommend(session, k)
    ]
