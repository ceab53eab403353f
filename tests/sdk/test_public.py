"""The public surface, frozen: a change here is a change for every user."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import hiersrec_sdk
from hiersrec_sdk import (
    CategoryHit,
    Explanation,
    Filter,
    Hit,
    Item,
    Recommender,
    Result,
    Session,
    Trace,
    errors,
)
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.explain import CategoryOfItem, Click, ScoreParts
from hiersrec_sdk.options import Options, RecommendOptions
from hiersrec_sdk.ranking import available_backends
from tests.sdk.bundles import make_shop

HEAVY = (
    "torch",
    "onnx",
    "numba",
    "polars",
    "pandas",
    "pyarrow",
    "fsspec",
    "huggingface_hub",
    "hiersrec_training",
    "hiersrec_export",
)


def test_names() -> None:
    assert sorted(hiersrec_sdk.__all__) == [
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
    assert all(hasattr(hiersrec_sdk, name) for name in hiersrec_sdk.__all__)


def test_version() -> None:
    assert hiersrec_sdk.__version__ == version("hiersrec-sdk")


def public(cls: type) -> list[str]:
    return sorted(name for name in dir(cls) if not name.startswith("_"))


def signatures(cls: type, names: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The parameters of each method, with their defaults."""
    methods = {name: getattr(cls, name) for name in names or public(cls) if callable(getattr(cls, name))}
    return {
        name: [
            parameter.name + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")
            for parameter in inspect.signature(method).parameters.values()
        ]
        for name, method in methods.items()
    }


def test_recommender() -> None:
    assert public(Recommender) == [
        "arecommend",
        "categories",
        "explain",
        "filter",
        "follow",
        "from_pretrained",
        "load",
        "push_to_hub",
        "recommend",
        "recommend_many",
        "save",
        "session",
        "similar_items",
        "trace",
    ]
    parameters = signatures(Recommender)
    restrictions = ["allow=None", "exclude=None", "categories=None", "exclude_categories=None"]
    common = [
        "k=20",
        "mode='candidates'",
        "candidates=None",
        "include_session_categories=False",
        "filter=None",
        "allow=None",
        "exclude=None",
        "exclude_seen=False",
        "categories=None",
        "exclude_categories=None",
        "max_per_category=None",
        "on_unknown='skip'",
        "threads=1",
    ]
    assert parameters == {
        "arecommend": ["self", "session", *common],
        "categories": ["self", "session", "k=5", "level=-1", "on_unknown='skip'"],
        "explain": ["self", "session", "item", "on_unknown='skip'"],
        "filter": ["self", *restrictions],
        "follow": ["self", "feed", "after=None"],
        "from_pretrained": [
            "repo",
            "revision=None",
            "cache_dir=None",
            "token=None",
            "local_files_only=False",
            "providers=('cpu',)",
            "backend=None",
            "threads=1",
            "verify=True",
        ],
        "load": ["path", "providers=('cpu',)", "backend=None", "threads=1", "verify=True"],
        "push_to_hub": [
            "self",
            "repo",
            "revision=None",
            "commit_message=None",
            "private=True",
            "exist_ok=False",
            "token=None",
        ],
        "recommend": ["self", "session", *common],
        "recommend_many": ["self", "sessions", "k=20", "batch_size=64", "output='results'", *common[1:]],
        "save": ["self", "path"],
        "session": ["self", "items=()"],
        "similar_items": ["self", "item", "k=20", "filter=None"],
        "trace": ["self", "session", *common],
    }
    for name, by_place in (
        ("filter", 1),
        ("recommend", 3),
        ("recommend_many", 3),
        ("load", 1),
        ("push_to_hub", 2),
        ("from_pretrained", 1),
    ):
        kinds = [
            parameter.kind for parameter in inspect.signature(getattr(Recommender, name)).parameters.values()
        ]
        assert set(kinds[by_place:]) == {inspect.Parameter.KEYWORD_ONLY}
        assert inspect.Parameter.KEYWORD_ONLY not in kinds[:by_place]


def test_options_of_recommend() -> None:
    """Type checkers know of the same options as the class that checks them."""
    named = {field.name: field.type for field in fields(Options) if field.name != "k"}
    assert [*RecommendOptions.__annotations__] == [*named]
    for name, hint in RecommendOptions.__annotations__.items():
        assert hint.__forward_arg__ == named[name]


def test_filters() -> None:
    assert public(Filter) == ["allows", "allows_delta", "bitmap", "eligible", "items", "tree"]


def test_catalog() -> None:
    checked = [
        "biases",
        "categories_of",
        "category",
        "category_label",
        "clicks_of",
        "ids",
        "rows",
        "title",
        "vectors",
    ]
    writing = ["move", "remove", "set_bias", "upsert"]
    as_data = ["apply", "check", "make"]  # of change files and feeds
    assert public(MutableCatalog) == sorted(checked + writing + as_data)
    assert signatures(MutableCatalog, checked) == signatures(Catalog, checked)
    assert signatures(MutableCatalog, writing) == {
        "move": ["self", "item", "category"],
        "remove": ["self", "ids"],
        "set_bias": ["self", "ids", "values"],
        "upsert": ["self", "items"],
    }
    assert [field.name for field in fields(Item)] == [
        "id",
        "category",
        "text",
        "numbers",
        "metadata_vector",
        "title",
        "vector",
    ]
    reading = [
        "rows",
        "ids",
        "title",
        "category",
        "find_category",
        "category_label",
        "categories_of",
        "clicks_of",
    ]
    assert signatures(Catalog, reading) == {
        "rows": ["self", "ids"],
        "ids": ["self", "rows"],
        "title": ["self", "row"],
        "category": ["self", "level", "index"],
        "find_category": ["self", "name"],
        "category_label": ["self", "path"],
        "categories_of": ["self", "rows", "level=-1"],
        "clicks_of": ["self", "rows"],
    }


def test_sessions() -> None:
    assert public(Session) == ["add", "items", "recommend", "undo"]
    assert signatures(Session) == {
        "add": ["self", "item"],
        "recommend": ["self", "k=20", "options"],
        "undo": ["self"],
    }


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (Explanation, "item title score rank candidate parts clicks categories"),
        (ScoreParts, "session category_conditioning session_items repeat covisitation item_bias"),
        (Click, "item title share"),
        (CategoryOfItem, "category path label level probability rank of"),
        (
            Trace,
            "rows unknown_ids session_vectors category_logits repeat_logits item_query ranges covisited offsets "
            "best scores result seconds",
        ),
    ],
)
def test_what_explains(cls: Any, names: str) -> None:
    assert " ".join(field.name for field in fields(cls)) == names


def test_results() -> None:
    assert public(Result) == [
        "bytes_read",
        "categories",
        "category_path",
        "items",
        "mode",
        "ranges",
        "rows_scored",
        "scores",
        "unknown_ids",
    ]
    assert [field.name for field in fields(Hit)] == ["item", "score", "title"]
    assert [field.name for field in fields(CategoryHit)] == [
        "category",
        "path",
        "probability",
        "level",
        "index",
    ]


def tree(error: type[Exception], depth: int = 0) -> list[str]:
    children = [child for child in error.__subclasses__() if child.__module__ == errors.__name__]
    return ["  " * depth + error.__name__, *(line for child in children for line in tree(child, depth + 1))]


def test_the_tree_of_errors_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn = [name for line in errors.__doc__.splitlines()[2:] for name in re.findall(r"\w+Error\b", line)]
    assert drawn == [line.strip() for line in tree(errors.HierSRecError)]


def test_errors() -> None:
    assert "\n".join(tree(errors.HierSRecError)) == "\n".join(
        [
            "HierSRecError",
            "  InvalidArgumentError",
            "    InvalidSessionError",
            "    InvalidItemIdError",
            "    NaNItemIdError",
            "    UnknownItemError",
            "    InvalidRowError",
            "    InvalidFilterError",
            "    UnknownCategoryError",
            "    AmbiguousCategoryError",
            "    CatalogChangeError",
            "      ChangeSkippedError",
            "    InvalidOptionError",
            "      InvalidKError",
            "      InvalidModeError",
            "      InvalidCandidatesError",
            "      InvalidOnUnknownError",
            "      InvalidIncludeSessionCategoriesError",
            "      InvalidExcludeSeenError",
            "      InvalidMaxPerCategoryError",
            "      InvalidThreadsError",
            "      InvalidBatchSizeError",
            "      InvalidOutputError",
            "      InvalidLevelError",
            "      InvalidProvidersError",
            "      InvalidPathError",
            "      InvalidRepoError",
            "  BundleError",
            "    BundleMissingError",
            "    BundleCorruptError",
            "    BundleVersionError",
            "  FeedError",
            "    FeedCorruptError",
            "    FeedBehindError",
            "    FeedMissingError",
            "    FeedLostError",
            "  ProviderError",
            "  BackendError",
            "  MissingExtraError",
            "  DataError",
            "    MissingColumnError",
            "    EmptyLogError",
            "    CategoryCycleError",
            "    LeakError",
            "  ConfigError",
            "  RunError",
            "    InterruptedRunError",
            "    DivergedRunError",
            "  JobError",
            "  ExportError",
        ]
    )


def imported(code: str, *arguments: str) -> str:
    """Which of the heavy packages, and of onnxruntime, are loaded once ``code`` has run."""
    code += f"\nimport sys\nprint(*[name for name in {(*HEAVY, 'onnxruntime')} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_is_light() -> None:
    assert imported("import hiersrec_sdk; hiersrec_sdk.available_backends()") == ""


@pytest.mark.parametrize("backend", [name for name in available_backends() if name != "numba"])
def test_recommending_needs_neither_torch_nor_onnx(backend: str, tmp_path: Path) -> None:
    shop = make_shop()
    shop.write(tmp_path / "bundle")
    code = f"""
import sys
from hiersrec_sdk import Recommender
recommender = Recommender.load(sys.argv[1], backend={backend!r})
assert len(recommender.recommend([{shop.ids[5]}, {shop.ids[9]}], k=5)) == 5
"""
    assert imported(code, str(tmp_path / "bundle")) == "onnxruntime"


def every_error(kind: type[Exception] = errors.HierSRecError) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from every_error(each)


@pytest.mark.parametrize("kind", dict.fromkeys(every_error()))
def test_errors_travel_between_processes(kind: type[Exception]) -> None:
    error = kind("arrow", "tables", "pyarrow") if kind is errors.MissingExtraError else kind("what is wrong")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
