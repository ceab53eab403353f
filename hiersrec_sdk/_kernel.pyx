# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The binding of ``csrc/topk.h``: types and layout by typed memoryviews, the GIL released, one call.

Bounds are the caller's to check (see ``hiersrec_sdk.ranking.scan``).
"""

from libc.stdint cimport int8_t, int64_t, uint64_t


cdef extern from "topk.h" nogil:
    ctypedef struct hiersrec_rows:
        const int64_t *ranges
        int64_t range_count
        const float *bias
        const uint64_t *bitmap
        bint deny

    int64_t hiersrec_topk_f32(
        const float *vectors, const float *query, int64_t dimension, const hiersrec_rows *which,
        int64_t k, float *scores, int64_t *rows)
    int64_t hiersrec_topk_i8(
        const int8_t *vectors, const float *scales, const int8_t *query, float query_scale, int64_t dimension,
        const hiersrec_rows *which, int64_t k, float *scores, int64_t *rows)


cdef inline hiersrec_rows select(
    const int64_t[:, ::1] ranges, const float[::1] bias, const uint64_t[::1] bitmap, bint deny
) noexcept:
    cdef hiersrec_rows which
    which.ranges = &ranges[0, 0]
    which.range_count = ranges.shape[0]
    which.bias = NULL if bias is None else &bias[0]
    which.bitmap = NULL if bitmap is None else &bitmap[0]
    which.deny = deny
    return which


def topk_float32(
    const float[:, ::1] vectors not None,
    const float[::1] query not None,
    const int64_t[:, ::1] ranges not None,
    const float[::1] bias,
    const uint64_t[::1] bitmap,
    bint deny,
    float[::1] scores not None,
    int64_t[::1] rows not None,
):
    """Rank float32 rows into ``scores`` and ``rows``; return how many are valid."""
    cdef hiersrec_rows which = select(ranges, bias, bitmap, deny)
    cdef int64_t count
    with nogil:
        count = hiersrec_topk_f32(
            &vectors[0, 0], &query[0], vectors.shape[1], &which, scores.shape[0], &scores[0], &rows[0])
    return count


def topk_int8(
    const int8_t[:, ::1] vectors not None,
    const float[::1] scales not None,
    const int8_t[::1] query not None,
    float query_scale,
    const int64_t[:, ::1] ranges not None,
    const float[::1] bias,
    const uint64_t[::1] bitmap,
    bint deny,
    float[::1] scores not None,
    int64_t[::1] rows not None,
):
    """Rank int8 rows into ``scores`` and ``rows``; return how many are valid."""
    cdef hiersrec_rows which = select(ranges, bias, bitmap, deny)
    cdef int64_t count
    with nogil:
        count = hiersrec_topk_i8(
            &vectors[0, 0], &scales[0], &query[0], query_scale, vectors.shape[1], &which,
            scores.shape[0], &scores[0], &rows[0])
    return count
