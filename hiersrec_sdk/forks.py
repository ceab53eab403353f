"""Locks that a forked child finds free, whoever held them in the parent."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from hiersrec_sdk.systems import after_fork_in_child

_HOLDERS: Final[dict[str, weakref.WeakSet[Any]]] = {}


def fresh_in_children(holder: Any, name: str) -> None:
    """Give the attribute ``name`` of ``holder``, an RLock, a new one in every child that is forked.

    The thread that holds it is not in the child, and would never release it. What the lock guards must therefore be
    right at any moment. A fork that waited for the lock instead could wait as long as the longest write takes, or for
    a thread that waits for it.
    """
    _HOLDERS.setdefault(name, weakref.WeakSet()).add(holder)


def _renew() -> None:
    for name, holders in _HOLDERS.items():
        for holder in holders:
            setattr(holder, name, threading.RLock())


after_fork_in_child(_renew)

if TYPE_CHECKING:
    from functools import cached_property as cached_property
else:

    class _CachedProperty:
        """``functools.cached_property`` without the lock that it holds in Python 3.11 while it computes.

        A child that is forked meanwhile would wait for that lock for ever. Two threads may compute a value at once.
        """

        def __init__(self, compute: Any) -> None:
            self._compute, self.__doc__ = compute, compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            return instance.__dict__.setdefault(self._name, self._compute(instance))

    cached_property = _CachedProperty
