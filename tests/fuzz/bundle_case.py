"""One case of a damaged bundle: it is written, opened in some way, and used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import BundleError, HierSRecError
from tests.fuzz import warm
from tests.fuzz.chance import Chance
from tests.fuzz.parts import write
from tests.fuzz.use import User, WrongError, command


@dataclass
class BundleCase:
    """A damaged bundle.

    Attributes:
        notes: what was damaged, and how the bundle is opened.
        files: its files by name.
        ids: item ids of the sound bundle.
        chance: chooses how it is used.
        options: of ``Recommender.load``.
        compare: whether a verified bundle is compared with a plain scan.
        trusts_graphs: whether the graphs are sound, so that a verified bundle may not fail in use.
    """

    notes: list[str]
    files: Mapping[str, bytes]
    ids: list[Any]
    chance: Chance
    options: dict[str, Any]
    compare: bool = True
    trusts_graphs: bool = True

    def run(self, scratch: Path) -> str:
        """Open and use it; returns how that ended."""
        copies = self.chance.one_in(2)
        if warm.SANITIZED:
            warm.copy_tables(copies)
        folder = write(scratch / "bundle", self.files)
        self.spoil(folder)
        try:
            recommender = Recommender.load(folder, **self.options)
        except BundleError as error:
            str(error).encode()
            if self.chance.one_in(25):
                inspect(folder)
            return "refused"
        except HierSRecError as error:
            raise WrongError(f"loading raises {type(error).__name__}, not a BundleError") from error
        verified = self.options["verify"]
        User(recommender, self.ids, self.chance, scratch, verified and self.trusts_graphs, folder).run(
            self.compare
        )
        return "used"

    def spoil(self, folder: Path) -> None:
        """Damage the folder itself."""


def inspect(folder: Path) -> None:
    """Describe a bundle that is refused."""
    with suppress(HierSRecError):
        command(["inspect"], folder)


def opening(chance: Chance) -> dict[str, Any]:
    """Options of ``Recommender.load``: mostly the kernel, with verification and without."""
    backend = chance.kind("40 * c, 8 * numpy, numba")
    if backend == "numba" and not warm.has_numba():  # it would compile for longer than a case may take
        backend = "numpy"
    return {"backend": backend, "verify": not chance.one_in(2)}
