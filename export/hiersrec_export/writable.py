"""Whether something can be written, found out before the work that it is to hold."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hiersrec_sdk.atomic import is_time_limit, new_folder
from hiersrec_sdk.errors import HierSRecError
from hiersrec_sdk.shown import shortened


def check_writable(path: Path, error: type[HierSRecError]) -> None:
    """Make a part beside the file or folder ``path``, which is not there yet, as who writes it will; and remove it.

    Raises:
        HierSRecError: that cannot be; of the class ``error``.
    """
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        try:
            with suppress(_EndedError), new_folder(path):
                raise _EndedError
        finally:
            for folder in made:
                with suppress(OSError):  # it was not made, or somebody has written into it
                    folder.rmdir()
    except (OSError, ValueError) as cause:
        if is_time_limit(cause):
            raise
        raise error(
            f"{shortened(path)} cannot be written: {shortened(cause)}; choose another place"
        ) from cause


class _EndedError(Exception):
    """Ends the writing of a folder, which is removed."""
