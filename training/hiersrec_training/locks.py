"""A lock on a folder that one process at a time works on. It ends with the process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from hiersrec_sdk.errors import RunError
from hiersrec_sdk.systems import CLOSED_IN_CHILDREN, fcntl

LOCK: Final = "lock"  # a file of its own: writers of the folder's files lock the folder


@contextmanager
def alone(folder: Path, command: str) -> Iterator[None]:
    """Keep other processes that call this for ``folder`` away. The file of the lock stays there.

    Args:
        folder: exists.
        command: what they are, for the error.

    Raises:
        RunError: another process works on the folder, or it cannot be written to.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | CLOSED_IN_CHILDREN, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error
    with ExitStack() as held:
        held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another {command} works on {folder}: wait for it, or stop it") from None
        except OSError:  # a system or a file system without locks
            held.close()  # on Windows an open file keeps its folder from being renamed
        yield
