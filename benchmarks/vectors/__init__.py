"""What is ranked: tables of vectors with queries and candidates."""

from __future__ import annotations

from benchmarks.vectors.case import Case, predicted_ranges
from benchmarks.vectors.clustered import clustered
from benchmarks.vectors.isotropic import isotropic
from benchmarks.vectors.trained import trained

__all__ = ["Case", "clustered", "isotropic", "predicted_ranges", "trained"]
