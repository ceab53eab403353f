"""The HTTP service as a deployment of Ray Serve: each replica loads the bundle and makes the app for itself."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hiersrec_sdk.bundle import open_source
from hiersrec_sdk.bundle.sources import absolute
from hiersrec_sdk.catalog.feed import open_feed
from hiersrec_sdk.errors import MissingExtraError
from hiersrec_sdk.paths import as_path

if TYPE_CHECKING:
    from ray.serve import Deployment


def deployment(bundle: str | os.PathLike[str], **settings: Any) -> Deployment:
    """The app of :func:`hiersrec_sdk.serve.create_app` as a deployment of Ray Serve, with the name ``hiersrec``.

    Its ``options`` take the number of replicas and whatever else Ray Serve decides. Each replica loads the bundle, with
    one onnxruntime thread, and looks once a second whether it was replaced.

    >>> serve.run(deployment("bundle", max_k=100).options(num_replicas=2).bind())     # doctest: +SKIP

    Args:
        bundle: its folder, or a zip file of it; this process and every replica must find it there.
        **settings: those of :class:`hiersrec_sdk.serve.Settings`. A feed is opened here too.

    Raises:
        MissingExtraError: a package of the extra ``ray-serve`` is not installed.
        InvalidOptionError: a setting is wrong.
        BundleError: as :meth:`Recommender.load`; checksums are checked by the replicas.
        FeedError: the feed cannot be opened.
    """
    try:
        ray_serve: Any = import_module("ray.serve")
        service: Any = import_module("hiersrec_sdk.serve")
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray-serve", "a deployment of Ray Serve", error.name or "") from error
    path = as_path(bundle, "bundle").absolute()  # replicas have another current folder
    checked = service.Settings().updated({**settings, "bundle": str(path)})
    if checked.feed:
        checked = checked.updated({"feed": absolute(checked.feed)})
    # what is wrong with them is said at once; the replicas open them themselves
    open_source(path, verify=False)
    if checked.followed:
        open_feed(checked.followed).close()

    def app() -> Any:
        from hiersrec_sdk.serve import create_app

        return create_app(settings=checked)

    made: Deployment = ray_serve.deployment(ray_serve.ingress(app)(), name="hiersrec")
    return made
