"""The settings of ``hiersrec train`` as Markdown tables, from the fields of ``Config`` and their comments."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, Final

from hiersrec_training.config import Config

_PLACEHOLDER: Final = "<!-- settings -->"
_FIELD: Final = re.compile(r"    (\w+): \w+ =")


def markdown() -> str:
    """A table for each group of settings; a comment on a line of its own begins a group."""
    lines = inspect.getsource(Config).splitlines()
    defaults = Config().as_dict()
    found: list[str] = []
    name = ""
    for line in lines:
        code, _, comment = (part.strip() for part in line.partition("# "))
        named = _FIELD.match(line)
        if line.lstrip().startswith("# "):
            found += [f"\n## {comment.capitalize()}\n", "| setting | default | meaning |", "|---|---|---|"]
        elif line.lstrip().startswith("def "):
            break
        elif named:
            name = named[1]
            found.append(f"| `{name}` | `{json.dumps(defaults[name])}` | {comment} |")
        elif comment and code:  # the comment of a default on a line of its own
            found[-1] = f"| `{name}` | `{json.dumps(defaults[name])}` | {comment} |"
    return "\n".join(found) + "\n"


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    if _PLACEHOLDER in source[0]:
        source[0] = source[0].replace(_PLACEHOLDER, markdown())


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True}
