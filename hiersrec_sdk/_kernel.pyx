# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The binding of ``csrc/``: types and layout by typed memoryviews, the GIL released.

Lengths and bounds are the caller's to check (see ``hiersrec_sdk.ranking.requests``).
"""

cimport cython
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

import numpy as np


cdef extern from "topk.h" nogil:
    ctypedef struct hiersrec_table:
        const float *vectors
        int64_t n
        int64_t dimension
        const float *bias
        const uint8_t *codes
        const uint16_t *scales
        const uint16_t *suffix_norms
        const float *quantization_errors
        const int64_t *stage_ends
        int64_t stage_count
        float max_norm

    ctypedef struct hiersrec_request:
        const float *query
        const int64_t *ranges
        int64_t range_count
        const int64_t *rest
        int64_t rest_count
        const uint64_t *bitmap
        const int64_t *skipped
        int64_t skipped_count
        const int64_t *covisited
        const float *offsets
        int64_t covisited_count
        float *scores
        int64_t *rows
        int64_t count
        int64_t rows_scored
        int64_t bytes_read

    int64_t hiersrec_workspace(const hiersrec_table *table, int64_t requests, int64_t k)
    void hiersrec_topk(
        const hiersrec_table *table, hiersrec_request *requests, int64_t count, int64_t k, void *workspace)
    const char *hiersrec_isa()
    const char *hiersrec_isa_at(int index)
    bint hiersrec_use_isa(const char *name)


cdef extern from "categories.h" nogil:
    int64_t hiersrec_choose(
        const float *logits, const int64_t *ranges, const int64_t *eligible_in, int64_t categories,
        const int64_t *first, int64_t first_count, int64_t rows, int64_t eligible, double top_p,
        int64_t ordered, int64_t *order, int64_t *chosen, float *odds, double *total,
        float *heap_scores, int64_t *heap_rows)


cdef extern from "covisitation.h" nogil:
    int HIERSREC_MAX_HIDDEN

    ctypedef struct hiersrec_covisitation:
        int64_t n
        const float *popularity
        int64_t edges
        const int64_t *offsets
        const int32_t *rows
        const uint16_t *counts
        int64_t hidden
        const float *hidden_weight
        const float *hidden_bias
        const float *weight

    int64_t hiersrec_covisitation_capacity(
        const hiersrec_covisitation *scorer, const int64_t *session, int64_t length)
    int64_t hiersrec_covisitation_workspace(int64_t capacity)
    int64_t hiersrec_covisitation_offsets(
        const hiersrec_covisitation *scorer, const int64_t *session, int64_t length, int64_t capacity, int64_t *rows,
        float *offsets, void *workspace)


cdef extern from "query_codes.h" nogil:
    bint hiersrec_integer_dots(
        const hiersrec_table *table, const float *query, int16_t *codes, int64_t *dots, void *workspace)

cdef extern from "code_check.h" nogil:
    int64_t hiersrec_first_wrong_codes(const hiersrec_table *table, int64_t start, int64_t stop)


MAX_HIDDEN = HIERSREC_MAX_HIDDEN


cdef class Table:
    """A table as the kernel knows it; keeps the arrays alive."""

    cdef hiersrec_table table
    cdef object arrays

    def __init__(
        self,
        const float[:, ::1] vectors not None,
        const float[::1] bias,
        const uint8_t[::1] codes,
        const uint16_t[::1] scales,
        const uint16_t[:, ::1] suffix_norms,
        const float[::1] quantization_errors,
        const int64_t[::1] stage_ends,
        float max_norm,
    ):
        self.table.vectors = &vectors[0, 0]
        self.table.n = vectors.shape[0]
        self.table.dimension = vectors.shape[1]
        self.table.bias = NULL if bias is None else &bias[0]
        self.table.codes = NULL
        if codes is not None:
            self.table.codes = &codes[0]
            self.table.scales = &scales[0]
            self.table.suffix_norms = NULL if suffix_norms.shape[0] == 0 else &suffix_norms[0, 0]
            self.table.quantization_errors = &quantization_errors[0]
            self.table.stage_ends = &stage_ends[0]
            self.table.stage_count = stage_ends.shape[0]
            self.table.max_norm = max_norm
        self.arrays = (vectors, bias, codes, scales, suffix_norms, quantization_errors, stage_ends)


cdef void *aligned(void *buffer) noexcept nogil:
    return <void *>((<uintptr_t>buffer + 63) & ~(<uintptr_t>63))


def topk(Table table not None, list requests not None, int64_t k):
    """Answer ``requests``: a list of (scores float32, rows int64, rows_scored, bytes_read).

    A request is a tuple: query, ranges, rest or None, bitmap or None, skipped or None, covisited and their
    offsets or None.
    """
    cdef int64_t count = len(requests), at
    cdef hiersrec_request *all_requests = <hiersrec_request *>malloc(count * sizeof(hiersrec_request))
    cdef void *workspace = malloc(hiersrec_workspace(&table.table, count, k) + 64)
    cdef hiersrec_request *request
    cdef const float[::1] floats
    cdef const int64_t[:, ::1] pairs
    cdef const int64_t[::1] whole
    cdef const uint64_t[::1] words
    cdef float[:, ::1] scores
    cdef int64_t[:, ::1] rows
    try:
        if all_requests == NULL or workspace == NULL:
            raise MemoryError
        all_scores = np.empty((count, k), np.float32)
        all_rows = np.empty((count, k), np.int64)
        scores = all_scores
        rows = all_rows
        for at in range(count):
            query, ranges, rest, bitmap, skipped, covisited, offsets = requests[at]
            request = &all_requests[at]
            floats = query
            request.query = &floats[0]
            pairs = ranges
            request.range_count = pairs.shape[0]
            request.ranges = NULL if pairs.shape[0] == 0 else &pairs[0, 0]
            request.rest = NULL
            request.rest_count = 0
            if rest is not None and len(rest):
                pairs = rest
                request.rest = &pairs[0, 0]
                request.rest_count = pairs.shape[0]
            request.bitmap = NULL
            if bitmap is not None:
                words = bitmap
                request.bitmap = &words[0]
            request.skipped = NULL
            request.skipped_count = 0
            if skipped is not None and len(skipped):
                whole = skipped
                request.skipped = &whole[0]
                request.skipped_count = whole.shape[0]
            request.covisited = NULL
            request.offsets = NULL
            request.covisited_count = 0
            if covisited is not None and len(covisited):
                whole = covisited
                floats = offsets
                request.covisited = &whole[0]
                request.offsets = &floats[0]
                request.covisited_count = whole.shape[0]
            request.scores = &scores[at, 0]
            request.rows = &rows[at, 0]
        with nogil:
            hiersrec_topk(&table.table, all_requests, count, k, aligned(workspace))
        found = []
        for at in range(count):
            request = &all_requests[at]
            found.append((
                all_scores[at, :request.count], all_rows[at, :request.count], request.rows_scored, request.bytes_read,
            ))
        return found
    finally:
        free(all_requests)
        free(workspace)


@cython.boundscheck(True)  # of a bundle that was not verified, `order` may name rows that are not there
def find_ids(const int64_t[::1] ids not None, const int64_t[::1] order not None, const int64_t[::1] wanted not None):
    """int64 [m]: the row of each of ``wanted`` in ``ids`` [n], which ``order`` [n] sorts; -1 where it is not there."""
    rows = np.empty(wanted.shape[0], np.int64)
    cdef int64_t[::1] found = rows
    cdef int64_t at, low, half, count
    for at in range(wanted.shape[0]):
        low = 0
        count = ids.shape[0]
        while count > 0:
            half = count // 2
            if ids[order[low + half]] < wanted[at]:
                low += half + 1
                count -= half + 1
            else:
                count = half
        found[at] = order[low] if low < ids.shape[0] and ids[order[low]] == wanted[at] else -1
    return rows


def session_items(const int64_t[::1] session not None, const float[::1] logits):
    """Distinct rows of a session, rising, int64, and the sums of their logits [at least len(session)] or zeros, float32."""
    cdef int64_t at, slot, to, count = 0
    rows = np.empty(session.shape[0], np.int64)
    sums = np.empty(session.shape[0], np.float32)
    cdef int64_t[::1] row_view = rows
    cdef float[::1] sum_view = sums
    cdef float logit
    for at in range(session.shape[0]):
        logit = 0 if logits is None else logits[at]
        slot = count
        while slot > 0 and row_view[slot - 1] > session[at]:
            slot -= 1
        if slot > 0 and row_view[slot - 1] == session[at]:
            sum_view[slot - 1] += logit
            continue
        for to in range(count, slot, -1):
            row_view[to] = row_view[to - 1]
            sum_view[to] = sum_view[to - 1]
        row_view[slot] = session[at]
        sum_view[slot] = logit
        count += 1
    return rows[:count], sums[:count]


cdef class Covisitation:
    """A co-visitation scorer as C knows it; keeps the arrays alive. Shapes are the caller's to check."""

    cdef hiersrec_covisitation scorer
    cdef object arrays

    def __init__(
        self,
        const float[:, ::1] popularity not None,
        const int64_t[::1] offsets not None,
        const int32_t[::1] rows not None,
        const uint16_t[:, ::1] counts not None,
        const float[:, ::1] hidden_weight not None,
        const float[::1] hidden_bias not None,
        const float[::1] weight not None,
    ):
        self.scorer.n = popularity.shape[0]
        self.scorer.popularity = &popularity[0, 0]
        self.scorer.edges = rows.shape[0]
        self.scorer.offsets = &offsets[0]
        self.scorer.rows = NULL if rows.shape[0] == 0 else &rows[0]
        self.scorer.counts = NULL if rows.shape[0] == 0 else &counts[0, 0]
        self.scorer.hidden = hidden_bias.shape[0]
        self.scorer.hidden_weight = &hidden_weight[0, 0]
        self.scorer.hidden_bias = &hidden_bias[0]
        self.scorer.weight = &weight[0]
        self.arrays = (popularity, offsets, rows, counts, hidden_weight, hidden_bias, weight)

    def score_offsets(self, const int64_t[::1] session not None):
        """Rows covisited with ``session`` [at least 1], rising, int64, and their score offsets, float32."""
        cdef int64_t length = session.shape[0], count
        cdef int64_t capacity = hiersrec_covisitation_capacity(&self.scorer, &session[0], length)
        rows = np.empty(capacity, np.int64)
        offsets = np.empty(capacity, np.float32)
        cdef int64_t[::1] row_view = rows
        cdef float[::1] offset_view = offsets
        cdef void *workspace = malloc(hiersrec_covisitation_workspace(capacity))
        if workspace == NULL:
            raise MemoryError
        with nogil:
            count = hiersrec_covisitation_offsets(
                &self.scorer, &session[0], length, capacity, &row_view[0], &offset_view[0], workspace)
            free(workspace)
        return rows[:count], offsets[:count]


def choose(
    const float[::1] logits not None,
    const int64_t[:, ::1] ranges not None,
    const int64_t[::1] eligible,
    const int64_t[::1] first,
    int64_t rows,
    int64_t least,
    double top_p,
    int64_t ordered,
):
    """Categories by logit: see ``hiersrec_sdk.ranking.candidates.Choice``, whose fields this returns."""
    cdef int64_t categories = logits.shape[0], taken, at
    cdef double total
    order = np.empty((2, categories), np.int64)
    chosen = np.empty((categories, 2), np.int64)
    odds = np.empty((2, categories), np.float32)
    cdef int64_t[:, ::1] order_view = order
    cdef int64_t[:, ::1] chosen_view = chosen
    cdef float[:, ::1] odds_view = odds
    with nogil:
        taken = hiersrec_choose(
            &logits[0], &ranges[0, 0], NULL if eligible is None else &eligible[0], categories,
            NULL if first is None else &first[0], 0 if first is None else first.shape[0], rows, least, top_p, ordered,
            &order_view[0, 0], &chosen_view[0, 0], &odds_view[0, 0], &total, &odds_view[1, 0], &order_view[1, 0])
    best = []
    for at in range(min(ordered, categories)):
        best.append((order_view[0, at], odds_view[0, order_view[0, at]] / total))
    return order[0, :taken], chosen[:taken].copy(), tuple(best)  # a result keeps the ranges, not the room for all


def integer_dots(Table table not None, const float[::1] query not None):
    """For tests: (query codes int16, integer dot products int64 [blocks * 16]); None where codes cannot hold the query."""
    cdef int64_t padded = table.table.stage_ends[table.table.stage_count - 1]
    codes = np.empty(padded, np.int16)
    products = np.empty((table.table.n + 15) // 16 * 16, np.int64)
    cdef int16_t[::1] code_view = codes
    cdef int64_t[::1] product_view = products
    cdef void *workspace = malloc(hiersrec_workspace(&table.table, 1, 1) + 64)
    if workspace == NULL:
        raise MemoryError
    cdef bint held = hiersrec_integer_dots(&table.table, &query[0], &code_view[0], &product_view[0], aligned(workspace))
    free(workspace)
    return (codes, products) if held else None


def isa():
    """Name of the instruction set in use."""
    return hiersrec_isa().decode()


def available_isas():
    """Names of the instruction sets that this processor has, best first."""
    names = []
    while hiersrec_isa_at(len(names)) != NULL:
        names.append(hiersrec_isa_at(len(names)).decode())
    return tuple(names)


def use_isa(str name not None):
    """Use the instruction set ``name``; False if it is not there. Not while another thread ranks."""
    return hiersrec_use_isa(name.encode())


def first_wrong_codes(Table table not None, int64_t start, int64_t stop):
    """The first row of ``[start, stop)``, ``start`` a multiple of 16, whose codes do not bound it; -1: there is none."""
    cdef int64_t row
    if table.table.codes is NULL or start < 0 or start % 16 or stop > table.table.n:
        raise ValueError("a table with codes, and rows of it from a multiple of 16 on")
    with nogil:
        row = hiersrec_first_wrong_codes(&table.table, start, stop)
    return row
