"""The recommender as an HTTP service: an ASGI app, and the server of ``hiersrec serve``.

``uvicorn hiersrec_sdk.serve:app`` serves the bundle that ``HIERSREC_BUNDLE`` names. In an application of your own,
mount :func:`create_app`.
"""

from __future__ import annotations

from typing import Any

from hiersrec_sdk.serve.asgi import App, create_app
from hiersrec_sdk.serve.settings import Settings

__all__ = ["App", "Settings", "app", "create_app"]

app: App  # made when somebody asks for it; so no module of this package may be called app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()["app"] = create_app(settings=Settings.from_environment())
    return made
