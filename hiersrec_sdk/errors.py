"""All errors of the SDK, in one tree.

HierSRecError
├── InvalidArgumentError               an argument of a call cannot be used
│   ├── InvalidSessionError            a session that is a string, a dict, not a sequence
│   ├── InvalidItemIdError             an item id of another type than the catalog's
│   ├── NaNItemIdError                 an item id that is NaN
│   ├── UnknownItemError               an item id that is not in the catalog, where it must be
│   ├── InvalidRowError                a row that the catalog does not have
│   ├── InvalidFilterError             not a filter, or a filter made for another catalog
│   ├── UnknownCategoryError           a category that is not in the catalog
│   ├── AmbiguousCategoryError         a category id that several categories have
│   ├── CatalogChangeError             a change that the catalog refuses
│   │   └── ChangeSkippedError         a published change that another one has overtaken
│   └── InvalidOptionError             an option out of its range; one class per option:
│       ├── InvalidKError, InvalidModeError, InvalidCandidatesError, InvalidOnUnknownError
│       ├── InvalidIncludeSessionCategoriesError, InvalidExcludeSeenError, InvalidMaxPerCategoryError
│       ├── InvalidThreadsError, InvalidBatchSizeError, InvalidOutputError, InvalidLevelError
│       └── InvalidProvidersError, InvalidPathError, InvalidRepoError
├── BundleError                        a bundle cannot be read or written
│   ├── BundleMissingError             no bundle at the path, or one of its files is missing
│   ├── BundleCorruptError             truncated, altered or of another format
│   └── BundleVersionError             written with another schema version
├── FeedError                          a change feed cannot be read or written
│   ├── FeedCorruptError               its file is damaged, or no change feed
│   ├── FeedBehindError                the catalog is older than the oldest change that the feed still has
│   ├── FeedMissingError               there is no such log, and none was to be made
│   └── FeedLostError                  the feed is another one than before, or has lost changes
├── ProviderError                      an execution provider that is not available
├── BackendError                       a ranking backend that is not available
├── MissingExtraError                  a package that one of the extras installs
├── DataError                          a log, a table or a dataset cannot be used
│   ├── MissingColumnError             a table without a column that was named
│   ├── EmptyLogError                  nothing left to learn from
│   ├── CategoryCycleError             a category that is its own ancestor
│   └── LeakError                      test data in the training split
├── ConfigError                        an invalid training configuration
├── RunError                           a training run cannot be read, resumed or written
│   ├── InterruptedRunError            stopped on request; --resume continues it
│   └── DivergedRunError               its loss or its weights are no longer finite
├── JobError                           recommendations for a file of sessions cannot be begun, continued or finished
└── ExportError                        an export that failed its checks

A warning beside them is MissingKernelWarning: the compiled kernel is missing.
"""

from __future__ import annotations

from typing import Any


class HierSRecError(Exception):
    """Base class of every error that the SDK raises on purpose."""


class InvalidArgumentError(HierSRecError, ValueError):
    """An argument of a call cannot be used."""


class InvalidSessionError(InvalidArgumentError, TypeError):
    """The session is not a sequence of item ids."""


class InvalidItemIdError(InvalidArgumentError, TypeError):
    """An item id is not of the catalog's id type."""


class NaNItemIdError(InvalidArgumentError):
    """An item id is NaN, usually a missing value of a table."""


class UnknownItemError(InvalidArgumentError, KeyError):
    """An item id is not in the catalog where it must be: one of a session with ``on_unknown="error"``; the item of
    ``explain``, ``similar_items``, ``move`` or ``set_bias``; or all of a session of ``explain`` or ``trace``."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class InvalidRowError(InvalidArgumentError, IndexError):
    """A row is not one of the catalog's."""


class InvalidFilterError(InvalidArgumentError):
    """A filter is not a :class:`~hiersrec_sdk.Filter`, or was made for another catalog."""


class UnknownCategoryError(InvalidArgumentError):
    """A category is not in the catalog."""


class AmbiguousCategoryError(InvalidArgumentError):
    """Several categories have the id that was given; the path of one names it."""


class CatalogChangeError(InvalidArgumentError):
    """The catalog refuses a change, and nothing was changed; or unsaved changes cannot be pickled."""


class ChangeSkippedError(CatalogChangeError):
    """Changes are published, but one of them could not be made any more, as another replica's change came first.

    Attributes:
        number: which one was skipped, counted from 1; the others are made.
    """

    def __init__(self, message: str, number: int = 1) -> None:
        super().__init__(message)
        self.number = number


class InvalidOptionError(InvalidArgumentError):
    """An option is out of its range, or two options contradict each other."""


class InvalidKError(InvalidOptionError):
    """``k`` is not an integer ≥ 1."""


class InvalidModeError(InvalidOptionError):
    """``mode`` is not "candidates", "exact" or "auto"."""


class InvalidCandidatesError(InvalidOptionError):
    """``candidates`` is not a share in (0, 1] or "auto", or "auto" was not calibrated."""


class InvalidOnUnknownError(InvalidOptionError):
    """``on_unknown`` is not "skip" or "error"."""


class InvalidIncludeSessionCategoriesError(InvalidOptionError):
    """``include_session_categories`` is not a bool."""


class InvalidExcludeSeenError(InvalidOptionError):
    """``exclude_seen`` is not a bool."""


class InvalidMaxPerCategoryError(InvalidOptionError):
    """``max_per_category`` is not an integer ≥ 1 or None."""


class InvalidThreadsError(InvalidOptionError):
    """``threads`` is not an integer from 1 to 256, or "auto"."""


class InvalidBatchSizeError(InvalidOptionError):
    """``batch_size`` is not an integer ≥ 1."""


class InvalidOutputError(InvalidOptionError):
    """``output`` is not one of the forms that a batch can be returned in."""


class InvalidLevelError(InvalidOptionError):
    """``level`` is not a level of the category tree."""


class InvalidProvidersError(InvalidOptionError):
    """``providers`` is not a list of execution providers."""


class InvalidPathError(InvalidOptionError):
    """``path`` cannot name a bundle."""


class InvalidRepoError(InvalidOptionError):
    """``repo`` cannot name a repository of the Hugging Face Hub."""


class BundleError(HierSRecError):
    """A bundle cannot be read or written."""


class BundleMissingError(BundleError, FileNotFoundError):
    """There is no bundle at the path, or one of its files is missing."""


class BundleCorruptError(BundleError):
    """A file of the bundle is truncated, altered or of another format."""


class BundleVersionError(BundleError):
    """The bundle has a schema version that this version of the SDK does not read."""


class FeedError(HierSRecError):
    """A change feed cannot be read or written."""


class FeedCorruptError(FeedError):
    """The file of a change feed is damaged, or is none."""


class FeedBehindError(FeedError):
    """The catalog lacks changes that the feed no longer has: a newer bundle has to be loaded."""


class FeedMissingError(FeedError):
    """There is no such log, and none was to be made."""


class FeedLostError(FeedError):
    """The feed is another one than the catalog's changes came from, or has lost some of them."""


class ProviderError(HierSRecError):
    """The requested onnxruntime execution provider is not available."""


class BackendError(HierSRecError):
    """The requested ranking backend is not available."""


class MissingExtraError(HierSRecError, ImportError):
    """A package is missing that one of the extras installs.

    Args:
        extra: name of the extra, e.g. ``"train"``; or several, e.g. ``"cpu,train"``.
        purpose: what needs it, for the message.
        package: the package whose import failed; or several, e.g. ``"onnx, torch"``.
    """

    def __init__(self, extra: str, purpose: str, package: str = "") -> None:
        missing = f" ({package} {'are' if ',' in package else 'is'} missing)" if package else ""
        extras = f"extra{'s' if ',' in extra else ''} {extra!r}"
        super().__init__(
            f"{purpose} needs the {extras}{missing}: pip install 'hiersrec-sdk[{extra}]', or in a checkout "
            f"pip install '.[{extra}]'"
        )
        self.extra, self._purpose, self._package = extra, purpose, package

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.extra, self._purpose, self._package)


class DataError(HierSRecError):
    """A log, a table or a dataset folder cannot be used."""


class MissingColumnError(DataError):
    """A table lacks a column that was named."""


class EmptyLogError(DataError):
    """Nothing is left to learn from, or to test on."""


class CategoryCycleError(DataError):
    """A category is its own ancestor."""


class LeakError(DataError):
    """The training split contains data of the test split."""


class ConfigError(HierSRecError):
    """A training configuration is not valid."""


class RunError(HierSRecError):
    """A training run cannot be read, resumed or written."""


class InterruptedRunError(RunError):
    """The run was stopped on request; ``--resume`` continues from its newest checkpoint."""


class DivergedRunError(RunError):
    """Training diverged: the loss or the weights are no longer finite."""


class JobError(HierSRecError):
    """Recommendations for a file of sessions cannot be begun, continued or finished; finished shards stay."""


class ExportError(HierSRecError):
    """The export failed its checks; no bundle was written."""


class MissingKernelWarning(RuntimeWarning):
    """The compiled kernel is missing, so a slower backend ranks."""
