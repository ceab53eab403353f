"""Sphinx configuration of the documentation: ``scripts/docs`` builds it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hiersrec_sdk import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "HierSRec SDK"
author = "the HierSRec SDK contributors"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "commands", "settings"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80  # a long signature takes a line for each argument
python_use_unqualified_type_names = True
napoleon_custom_sections = [("Attributes", "params_style")]  # else each attribute is an entry of its own
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"HierSRec SDK {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}
pygments_style = "friendly"
smartquotes_action = "D"  # dashes; quotes stay, as "cpu" is a value


def _without_module_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The pages introduce modules themselves."""
    if what == "module":
        lines.clear()


def _with_its_colons(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The comment of a field is text: napoleon would take what is before a colon in its first line as a type."""
    if what == "attribute":
        lines[:0] = ["..", ""]  # an empty comment, in which there is no colon


def _without_constructor(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Users make no objects but items; the others come from methods."""
    return ("", None) if what == "class" and name != "hiersrec_sdk.Item" else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _without_constructor)
    app.connect("autodoc-process-docstring", _without_module_text)
    app.connect("autodoc-process-docstring", _with_its_colons, priority=400)  # before napoleon
