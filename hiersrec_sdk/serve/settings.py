"""What a service is told: by the arguments of :func:`create_app`, by the command's options, or by the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from hiersrec_sdk.arguments import integer_of, is_integer, number_of
from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.shown import shown

_PREFIX: Final = "HIERSREC_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a service. The environment variable of ``max_k`` is ``HIERSREC_MAX_K``, and so on.

    Attributes:
        bundle: path of the bundle, a folder or a zip file; "": the recommender is given.
        feed: the log of catalog changes to follow, a file or a ``redis://`` URL; "": ``BUNDLE.changes`` if there is a
            token, else none.
        token: what a request must carry to change the catalog, without line breaks, and without blanks around it;
            "": the catalog cannot be changed.
        page: whether there is the page at ``/``, and the search for items that it needs.
        max_body_bytes: largest body of a request.
        max_header_bytes: largest request line and headers. This and ``head_seconds`` count in ``hiersrec serve`` alone:
            another server has its own limits.
        max_sessions: most sessions, or changes, in one request.
        max_k: largest ``k``.
        max_hits: most hits that a request for many sessions may ask for: sessions times ``k``.
        head_seconds: time in which a connection must have sent its request line and headers.
        body_seconds: time in which a request must have sent its body.

    Raises:
        InvalidOptionError: a value is not of its type, or out of its range.
    """

    bundle: str = ""
    feed: str = field(default="", repr=False)  # a URL may hold a password
    token: str = field(default="", repr=False)
    page: bool = True
    max_body_bytes: int = 1 << 20
    max_header_bytes: int = 16 << 10
    max_sessions: int = 1_000
    max_k: int = 1_000
    max_hits: int = 100_000
    head_seconds: float = 10.0
    body_seconds: float = 10.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value, default = getattr(self, each.name), each.default
            if isinstance(default, bool | str):
                if type(value) is not type(default):
                    raise InvalidOptionError(
                        f"{each.name} must be a {_KINDS[type(default)]}, got {shown(value)}"
                    )
            elif isinstance(default, int):
                if not is_integer(value, 1):
                    raise InvalidOptionError(f"{each.name} must be an integer ≥ 1, got {shown(value)}")
            elif not (is_integer(value, 1) or (isinstance(value, float) and 0 < value < float("inf"))):
                raise InvalidOptionError(f"{each.name} must be a number above 0, got {shown(value)}")
        if self.token != self.token.strip() or not self.token.isprintable():  # a header could never hold it
            raise InvalidOptionError(
                "token (HIERSREC_TOKEN) must be text without line breaks, and without blanks around it"
            )

    def updated(self, given: Mapping[str, Any]) -> Settings:
        """These settings, but for those ``given`` by name.

        Raises:
            InvalidOptionError: there is no setting of that name; or its value is wrong.
        """
        names = [each.name for each in fields(self)]
        unknown = [name for name in given if name not in names]
        if unknown:
            raise InvalidOptionError(
                f"there is no setting {', '.join(unknown)}; there are {', '.join(names)}"
            )
        return replace(self, **given)

    @property
    def followed(self) -> str:
        """The feed that is followed; "": none."""
        return self.feed or (f"{self.bundle.rstrip('/')}.changes" if self.token and self.bundle else "")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings that environment variables name; an empty variable counts as none.

        Raises:
            InvalidOptionError: a variable has a wrong value, or ``HIERSREC_BUNDLE`` is missing.
        """
        given: dict[str, Any] = {}
        for each in fields(cls):
            name = _PREFIX + each.name.upper()
            text = environment.get(name, "")
            if text:
                try:
                    given[each.name] = _parsed(text, type(each.default))
                    cls(**{each.name: given[each.name]})
                except InvalidOptionError as error:
                    raise InvalidOptionError(f"{name}: {error}") from None
        if "bundle" not in given:
            raise InvalidOptionError(f"{_PREFIX}BUNDLE must name the bundle to serve")
        return cls(**given)

    def environment(self) -> dict[str, str]:
        """The variables that :meth:`from_environment` reads these settings from."""
        return {
            _PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in asdict(self).items()
        }


_KINDS: Final = {bool: "bool", str: "text"}


def _parsed(text: str, kind: type) -> Any:
    """The value of a variable; the text itself where it is none of its ``kind``, which the checks refuse."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind is str:
        return text
    found = integer_of(text)
    return (text if (number := number_of(text)) is None else number) if found is None else found
