"""The bundle on disk: one folder that holds a model and its catalog."""

from hiersrec_sdk.bundle.folder import Bundle, open_bundle, read_file, write_bundle, write_changed

__all__ = ["Bundle", "open_bundle", "read_file", "write_bundle", "write_changed"]
