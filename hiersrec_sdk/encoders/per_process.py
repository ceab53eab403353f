"""onnxruntime in processes that fork, such as the workers of gunicorn with ``preload_app``.

A session of onnxruntime does not survive a fork. In the child its threads are not there, and a lock that another thread
held stays locked, so that running it, or taking it down, may wait for ever. Each process therefore loads its own, and
leaves its parent's alone.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from hiersrec_sdk.systems import after_fork_in_child


class PerProcess:
    """A graph of this process: loaded when it is first asked for, anew in a forked child.

    Args:
        load: loads it; what it returns holds the session of onnxruntime.

    Attributes:
        local: for what a thread keeps together with the graph.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self.local: threading.local = threading.local()
        self._load = load
        self._graph: Any = None
        self._lock = threading.Lock()
        _all.add(self)

    def __call__(self) -> Any:
        """The graph. Raises what ``load`` raises."""
        if self._graph is None:
            with self._lock:
                if self._graph is None:
                    self._graph = self._load()
        return self._graph

    def _leave_to_parent(self) -> None:
        for owned in (self._graph, self.local):  # never taken down, not even when the process ends
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))
        self._graph, self.local, self._lock = None, threading.local(), threading.Lock()


_all: Final[weakref.WeakSet[PerProcess]] = weakref.WeakSet()


def _after_fork() -> None:
    for graph in list(_all):
        graph._leave_to_parent()


after_fork_in_child(_after_fork)
