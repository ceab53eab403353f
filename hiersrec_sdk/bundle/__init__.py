"""The bundle on disk: one folder that holds a model and its catalog."""

from hiersrec_sdk.bundle.cache import cache_folder, is_in_cache
from hiersrec_sdk.bundle.folder import Bundle, open_bundle
from hiersrec_sdk.bundle.hub import download
from hiersrec_sdk.bundle.schema import CATALOG, CONFIG, DELTA, ITEM_ENCODER, MODEL, QUERY_PARTS
from hiersrec_sdk.bundle.sources import Source, open_source
from hiersrec_sdk.bundle.tables import StringTable, read_tables, write_tables
from hiersrec_sdk.bundle.write import write_bundle, write_with_delta

__all__ = [
    "CATALOG",
    "CONFIG",
    "DELTA",
    "ITEM_ENCODER",
    "MODEL",
    "QUERY_PARTS",
    "Bundle",
    "Source",
    "StringTable",
    "cache_folder",
    "download",
    "is_in_cache",
    "open_bundle",
    "open_source",
    "read_tables",
    "write_bundle",
    "write_tables",
    "write_with_delta",
]
