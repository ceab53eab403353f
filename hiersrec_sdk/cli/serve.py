"""The command ``serve``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hiersrec_sdk.bundle.sources import open_source
from hiersrec_sdk.catalog.feed import open_feed
from hiersrec_sdk.cli.browser import open_when_ready
from hiersrec_sdk.cli.common import INTEGER, NUMBER, PATH, SectionCommand, SectionOption, import_extra
from hiersrec_sdk.errors import InvalidOptionError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _option(name: str, section: str, **settings: Any) -> Callable[[_Command], _Command]:
    return click.option(name, cls=SectionOption, section=section, **{"show_default": True, **settings})


def _setting(name: str, section: str, **settings: Any) -> Callable[[_Command], _Command]:
    """An option that an environment variable may give too: a field of :class:`hiersrec_sdk.serve.Settings`."""
    variable = "HIERSREC_" + name.partition("/")[0].lstrip("-").replace("-", "_").upper()
    return _option(name, section, envvar=variable, **settings)


@click.command(cls=SectionCommand)
@click.argument("bundle", type=PATH)
@_option("--host", "Server", default="127.0.0.1", help="Address to listen on; 0.0.0.0: all of this machine.")
@_option("--port", "Server", type=INTEGER, default=8080, help="0: any free one.")
@_option(
    "--workers",
    "Server",
    type=INTEGER,
    default=1,
    help="Processes that answer; they share the tables in memory.",
)
@_option(
    "--drain-seconds",
    "Server",
    type=INTEGER,
    default=30,
    help="Time for the requests that run when the server stops.",
)
@_option(
    "--keep-alive-seconds", "Server", type=INTEGER, default=75, help="Time that an idle connection is kept."
)
@_option("--access-log", "Server", is_flag=True, help="Log every request.")
@_setting("--page/--no-page", "Server", default=True, help="Serve a page to try things on, at /.")
@_option(
    "--browser/--no-browser", "Server", default=False, help="Open the page in a web browser of this machine."
)
@_setting(
    "--feed",
    "Changes of the catalog",
    default="",
    show_default=False,
    metavar="FILE|redis://HOST/DB?key=NAME",
    help="Change feed that the workers follow.  [default: BUNDLE.changes if HIERSREC_TOKEN is set, else none]",
)
@_setting("--max-body-bytes", "Limits", type=INTEGER, default=1 << 20, help="Largest body of a request.")
@_setting(
    "--max-header-bytes", "Limits", type=INTEGER, default=16 << 10, help="Largest request line and headers."
)
@_setting(
    "--max-sessions", "Limits", type=INTEGER, default=1_000, help="Most sessions, or changes, in one request."
)
@_setting("--max-k", "Limits", type=INTEGER, default=1_000, help="Most items for one session.")
@_setting(
    "--max-hits",
    "Limits",
    type=INTEGER,
    default=100_000,
    help="Most sessions times k in a request for many sessions.",
)
@_setting(
    "--head-seconds", "Limits", type=NUMBER, default=10.0, help="Time to send request line and headers."
)
@_setting("--body-seconds", "Limits", type=NUMBER, default=10.0, help="Time to send a body.")
def serve(
    bundle: Path,
    host: str,
    port: int,
    workers: int,
    drain_seconds: int,
    keep_alive_seconds: int,
    access_log: bool,
    browser: bool,
    **given: Any,
) -> None:
    """Serve BUNDLE over HTTP: recommendations as JSON, metrics, and a page to try things on.

    \b
    hiersrec serve bundle
    curl -d '{"session": ["sku-00017"], "k": 5}' http://127.0.0.1:8080/recommend

    Where the folder is replaced, or at SIGHUP, the new bundle is loaded and checked beside the old one, and then takes
    its place; no request is lost, and a broken bundle changes nothing. SIGTERM lets running requests end. A worker that
    dies is replaced.

    With a token in HIERSREC_TOKEN, whoever sends it may change the catalog, at /catalog/upsert, remove, move and bias.
    All workers follow the changes.

    /docs describes the routes. There is no TLS: put a proxy in front that provides it.
    """
    if os.getpid() == 1:  # in a container: the kernel drops a signal that the first process does not handle
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    server = import_extra("hiersrec_sdk.serve.server", "serve", "serve")
    for name, value, least in (
        ("--workers", workers, 1),
        ("--drain-seconds", drain_seconds, 0),
        ("--keep-alive-seconds", keep_alive_seconds, 0),
    ):
        if value < least:
            raise InvalidOptionError(f"{name} must be an integer ≥ {least}, got {value}")
    if not 0 <= port < 1 << 16:
        raise InvalidOptionError(f"--port must be an integer from 0 to 65535, got {port}")
    if browser and not given["page"]:
        raise InvalidOptionError("--browser opens the page: leave out --no-page, and HIERSREC_PAGE=false")
    if os.environ.get("HIERSREC_TOKEN") == "":
        raise InvalidOptionError("HIERSREC_TOKEN is empty: unset it, or set it to a secret")
    token = os.environ.get("HIERSREC_TOKEN", "")
    settings = server.Settings(bundle=str(bundle.absolute()), token=token, **given)
    # what is wrong with them is said at once; the workers open them themselves
    open_source(bundle, verify=True)
    if settings.followed:
        open_feed(settings.followed).close()
    config = server.ServerConfig(settings, workers, drain_seconds, keep_alive_seconds, access_log)
    server.run(settings, host, port, config, open_when_ready if browser else None)
