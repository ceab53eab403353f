"""Every error of the SDK, drawn as one tree.

HierSRecError
├── InvalidArgumentError            what a call was given
│   ├── InvalidSessionError      a session that is a string, a dict, no sequence
│   ├── InvalidItemIdError       an id that is not of the catalogue's type
│   ├── NaNItemIdError        an id that is NaN
│   ├── UnknownItemError      an id that the catalogue lacks, where on_unknown="error"
│   ├── InvalidKError                k that is no whole number of at least 1
│   ├── InvalidOptionError           another argument out of its range
│   ├── CatalogChangeError          a change of the catalogue that cannot be made
│   └── InvalidFilterError           a filter that is none, or of another catalogue
│       └── UnknownCategoryError  a category that the catalogue lacks
├── BundleError           a bundle on disk
│   ├── BundleMissingError    no bundle there, or a file of it is missing
│   ├── BundleCorruptError    truncated, altered or foreign
│   └── BundleVersionError    written by a newer version
├── ProviderError         an execution provider that is not there
├── BackendError          a ranking backend that is not there
├── MissingExtraError     a package that an extra installs
├── DataError             logs, tables and datasets
│   ├── MissingColumnError    a column that a table lacks
│   ├── EmptyLogError         nothing left to learn from
│   ├── CategoryCycleError    a category that is its own ancestor
│   └── LeakError             test data in the training part
├── ConfigError           a training configuration
├── RunError              a training run on disk
│   └── InterruptedRunError   it was asked to stop, and can be resumed
└── ExportError           an export that did not pass its checks
"""

from __future__ import annotations


class HierSRecError(Exception):
    """Base of every error that the SDK raises on purpose."""


class InvalidArgumentError(HierSRecError, ValueError):
    """A call was given something it cannot use."""


class InvalidSessionError(InvalidArgumentError, TypeError):
    """The session is not a sequence of item ids."""


class InvalidItemIdError(InvalidArgumentError, TypeError):
    """An item id is not of the catalogue's id type."""


class NaNItemIdError(InvalidArgumentError):
    """An item id is NaN: usually a missing value of a table."""


class UnknownItemError(InvalidArgumentError, KeyError):
    """An item id that the catalogue lacks, where ``on_unknown="error"``."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class InvalidKError(InvalidArgumentError):
    """``k`` is not a whole number of at least 1."""


class InvalidOptionError(InvalidArgumentError):
    """An argument is out of its range."""


class CatalogChangeError(InvalidArgumentError):
    """A change of the catalogue cannot be made; nothing was changed."""


class InvalidFilterError(InvalidArgumentError):
    """A filter is not what it should be, or was made for another catalogue."""


class UnknownCategoryError(InvalidFilterError):
    """A filter names a category that the catalogue lacks."""


class BundleError(HierSRecError):
    """A bundle cannot be read or written."""


class BundleMissingError(BundleError, FileNotFoundError):
    """There is no bundle at the path, or one of its files is missing."""


class BundleCorruptError(BundleError):
    """A file of the bundle is truncated, altered or of another format."""


class BundleVersionError(BundleError):
    """The bundle was written by a newer version of the SDK."""


class ProviderError(HierSRecError):
    """An onnxruntime execution provider was asked for and is missing."""


class BackendError(HierSRecError):
    """A ranking backend was asked for and is missing."""


class MissingKernelWarning(RuntimeWarning):
    """The compiled kernel is missing, so that a slower backend ranks."""


class MissingExtraError(HierSRecError, ImportError):
    """A package is missing that one of the extras installs.

    Args:
        extra: name of the extra, e.g. ``"train"``.
        purpose: what needs it, for the message.
        package: the package whose import failed.
    """

    def __init__(self, extra: str, purpose: str, package: str = "") -> None:
        missing = f" ({package} is missing)" if package else ""
        super().__init__(
            f"{purpose} needs the extra {extra!r}{missing}: pip install 'hiersrec-sdk[{extra}]', or in a checkout "
            f"pip install '.[{extra}]'"
        )
        self.extra = extra


class DataError(HierSRecError):
    """A log, a table or a dataset folder cannot be used."""


class MissingColumnError(DataError):
    """A table lacks a column that was named."""


class EmptyLogError(DataError):
    """Nothing is left to learn from, or to test on."""


class CategoryCycleError(DataError):
    """A category is its own ancestor."""


class LeakError(DataError):
    """Data of the test part stands in the training part."""


class ConfigError(HierSRecError):
    """A training configuration is not valid."""


class RunError(HierSRecError):
    """A training run cannot be read, resumed or written."""


class InterruptedRunError(RunError):
    """The run was asked to stop; its newest checkpoint waits for ``--resume``."""


class ExportError(HierSRecError):
    """The export did not pass its checks; no bundle was written."""
