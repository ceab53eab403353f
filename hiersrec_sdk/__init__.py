"""HierSRec SDK: session-based recommendation from a bundle on disk, with NumPy and onnxruntime only.

>>> from hiersrec_sdk import Recommender
>>> r = Recommender.load("bundle/")                        # doctest: +SKIP
>>> result = r.recommend(["shoe-17", "shoe-40"], k=20)     # doctest: +SKIP
>>> [(hit.item, hit.score) for hit in result]              # doctest: +SKIP
"""

import logging

try:  # before the other imports: a bundle names the version that wrote it
    from hiersrec_sdk._version import __version__
except ModuleNotFoundError:  # a checkout, in which nothing was built
    __version__ = "0+unknown"

from hiersrec_sdk import errors
from hiersrec_sdk.catalog.filters import Filter
from hiersrec_sdk.catalog.item import Item
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import HierSRecError
from hiersrec_sdk.explain import Explanation, Trace
from hiersrec_sdk.ranking import available_backends
from hiersrec_sdk.recommender import Recommender
from hiersrec_sdk.results import CategoryHit, Hit, Result
from hiersrec_sdk.session import Session

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is logged is the application's to show

__all__ = [
    "CategoryHit",
    "Explanation",
    "Filter",
    "HierSRecError",
    "Hit",
    "Item",
    "MutableCatalog",
    "Recommender",
    "Result",
    "Session",
    "Trace",
    "__version__",
    "available_backends",
    "errors",
]
