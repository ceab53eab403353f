"""What costs more time than a case: done once, before workers are forked, or once in each worker."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any, Final

from hiersrec_sdk import search
from hiersrec_sdk.encoders.runtime import import_onnxruntime
from hiersrec_sdk.ranking import get_backend
from tests.fuzz.parts import sound

SANITIZED: Final = "SANITIZED_KERNEL" in os.environ
_IMPORTED_LATE: Final = ("pandas", "polars", "pyarrow", "hiersrec_sdk.cli.main")
_NUMBA: Final = "hiersrec_sdk.ranking.numba_backend"


def warm_up(numba: bool) -> None:
    """Import what the SDK imports when it is needed, and compile the kernels of Numba, if wanted."""
    for name in _IMPORTED_LATE:
        import_module(name)
    if numba:
        get_backend("numba")
    assert search._PART_ROWS
    vars(search)["_PART_ROWS"] = 16  # so that small tables are searched by several threads too
    sound()
    keep_sessions()


def copy_tables(wanted: bool) -> None:
    """Whether bundles are opened with each table in memory of its own, around which a sanitizer watches.

    It sees nothing of a map of the file, where one table follows the other.
    """
    bundle = [module for name, module in sys.modules.items() if name.startswith("hiersrec_sdk.bundle.")]
    holders = [module for module in bundle if hasattr(module, "parse_tables")]
    assert holders
    for module in holders:
        parse: Any = module.parse_tables
        if wanted and not isinstance(parse, partial):
            vars(module)["parse_tables"] = partial(_copied, parse)
        elif not wanted and isinstance(parse, partial):
            vars(module)["parse_tables"] = parse.args[0]


def _copied(parse: Any, *arguments: Any) -> Any:
    tables = parse(*arguments)
    for name, table in tables.items():
        tables[name] = table.copy()
        tables[name].flags.writeable = False
    return tables


def has_numba() -> bool:
    """Whether the kernels of Numba are compiled."""
    return _NUMBA in sys.modules


def keep_sessions() -> None:
    """Load each sound graph once: later sessions of it are the first one."""
    onnxruntime: Any = import_onnxruntime()
    if isinstance(onnxruntime.InferenceSession, partial):
        return
    graphs = {content for parts in sound() for name, content in parts.files.items() if name.endswith(".onnx")}
    onnxruntime.InferenceSession = partial(_session, onnxruntime.InferenceSession, graphs, {})


def _session(
    make: Any,
    sound_graphs: set[bytes],
    kept: dict[Any, Any],
    model: Any,
    options: Any,
    *more: Any,
    **named: Any,
) -> Any:
    if not isinstance(model, bytes) or model not in sound_graphs:
        return make(model, options, *more, **named)
    key = model, options.intra_op_num_threads, str(more)
    if key not in kept:
        kept[key] = make(model, options, *more, **named)
    return kept[key]
