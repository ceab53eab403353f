"""Recommendations for many sessions at once: from files by processes of this machine, in Ray Data, in Spark.

Each of them calls a :class:`~hiersrec_sdk.integrations.batch.BatchRecommender`. Ray and Spark are imported by their own
modules alone, and only there where they are already in use.
"""

from hiersrec_sdk.integrations.batch import BatchRecommender

__all__ = ["BatchRecommender"]
