"""Shows a page of this machine's own server in a web browser, once it answers."""

from __future__ import annotations

import os
import sys
import threading
import time
import webbrowser
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

import click

_PATIENCE: Final = 120.0  # seconds until the server must answer; a large bundle takes a while to check


def has_display() -> bool:
    """Whether a browser could open a window here. One of the terminal would take it from the server's log."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def open_when_ready(url: str) -> None:
    """Open ``url`` when its server is ready, from another thread; say so where there is no browser.

    Args:
        url: of a page of ``hiersrec serve``, on this machine.
    """
    threading.Thread(target=_open, args=(url,), daemon=True).start()


def _open(url: str) -> None:
    if not _is_ready(url):
        return  # the server says what is wrong
    try:
        opened = webbrowser.open(url)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        click.echo(f"no browser was found here: open {url} yourself", err=True)


def _is_ready(url: str) -> bool:
    """Wait until the server can answer."""
    address = urlsplit(url)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        connection = HTTPConnection(str(address.hostname), address.port, timeout=5)  # past any proxy
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return True
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    return False
