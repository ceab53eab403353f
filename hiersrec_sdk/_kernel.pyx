# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=True
"""The binding of ``csrc/``. It releases the GIL, but for work on small arrays, which takes less time than that.

C trusts its arguments, so they are checked here, at every call and whatever a caller has checked before: types, shapes,
alignment, and each number that C takes for a place in memory. A wrong one is a TypeError or a ValueError; none makes C
read or write outside of the arrays. What changes nothing but results is left to the caller, such as ranges that overlap.

Tables may be mapped from a file that somebody changes meanwhile. Hence a number of a table that C takes for a place is
copied before it is checked, or checked in C where it is read.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.number cimport PyNumber_Index
from libc.stdint cimport INT32_MAX, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memset, strchr

import os

import numpy as np


cdef extern from "topk.h" nogil:
    enum:
        HIERSREC_BLOCK
        HIERSREC_MAX_STAGES
        HIERSREC_MAX_DIMENSION

    int64_t HIERSREC_MAX_ROWS

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
        const int64_t *first, int64_t first_count, const uint8_t *is_first, int64_t rows, int64_t eligible,
        double top_p, int64_t ordered, int64_t *order, int64_t *chosen, float *odds, double *total,
        float *heap_scores, int64_t *heap_rows)


cdef extern from "covisitation.h" nogil:
    enum:
        HIERSREC_POPULARITIES
        HIERSREC_EDGE_COUNTS
        HIERSREC_FEATURES
        HIERSREC_MAX_HIDDEN

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
        uint64_t multiplier

    ctypedef struct hiersrec_neighbors:
        pass

    int64_t hiersrec_covisitation_capacity(
        const hiersrec_covisitation *scorer, const int64_t *session, int64_t length, hiersrec_neighbors *near)
    int64_t hiersrec_covisitation_workspace(int64_t capacity)
    int64_t hiersrec_covisitation_offsets(
        const hiersrec_covisitation *scorer, const int64_t *session, int64_t length,
        const hiersrec_neighbors *near, int64_t capacity, int64_t *rows, float *offsets, const hiersrec_table *next,
        void *workspace)


cdef extern from "query_codes.h" nogil:
    bint hiersrec_integer_dots(
        const hiersrec_table *table, const float *query, int16_t *codes, int64_t *dots, void *workspace)

cdef extern from "id_hashes.h" nogil:
    void hiersrec_hash_strings(const uint8_t *data, const int64_t *offsets, int64_t count, uint64_t *hashes)


cdef extern from "code_check.h" nogil:
    int64_t hiersrec_first_wrong_codes(const hiersrec_table *table, int64_t start, int64_t stop)


MAX_HIDDEN = HIERSREC_MAX_HIDDEN


# ---- arguments ----


ctypedef struct element:
    const char *name
    const char *formats  # in the buffer protocol
    Py_ssize_t size      # in bytes, and its alignment


cdef element FLOAT32 = [b"float32", b"f", 4]
cdef element INT16 = [b"int16", b"h", 2]
cdef element INT32 = [b"int32", b"il", 4]
cdef element INT64 = [b"int64", b"lq", 8]
cdef element UINT8 = [b"uint8", b"B", 1]
cdef element UINT16 = [b"uint16", b"H", 2]
cdef element UINT64 = [b"uint64", b"LQ", 8]

cdef enum:
    ANY = -1   # length of a dimension
    NONE = -2  # the array has no second dimension


cdef void *hold(
    Py_buffer *view, object given, const element *of, int64_t rows, int64_t columns, str name
) except? NULL:
    """The data of an array of this type and shape. It stays where it is until ``view`` is released."""
    if not PyObject_CheckBuffer(given):
        raise TypeError(f"{name} must be {wanted(of, rows, columns)}, got {type(given).__name__}")
    try:
        PyObject_GetBuffer(given, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
    except (BufferError, ValueError) as error:
        raise ValueError(f"{name} must be {wanted(of, rows, columns)}: {error}") from None
    if <uintptr_t>view.buf % <uintptr_t>of.size and view.itemsize == of.size:
        raise ValueError(f"{name} must be aligned to {of.size} bytes")
    if (
        view.itemsize != of.size or view.format == NULL or view.format[0] == 0 or view.format[1] != 0
        or strchr(of.formats, view.format[0]) == NULL
    ):
        format = "bytes" if view.format == NULL else repr((<bytes>view.format).decode("ascii", "replace"))
        raise TypeError(f"{name} must be {wanted(of, rows, columns)}, got an array of {format}")
    if (
        view.ndim != (1 if columns == NONE else 2)
        or (rows != ANY and view.shape[0] != rows)
        or (columns >= 0 and view.shape[1] != columns)
    ):
        shape = [view.shape[at] for at in range(view.ndim)]
        raise ValueError(f"{name} must be {wanted(of, rows, columns)}, got {shape}")
    return view.buf


cdef str wanted(const element *of, int64_t rows, int64_t columns):
    lengths = [rows] if columns == NONE else [rows, columns]
    shape = ", ".join("any" if length == ANY else str(length) for length in lengths)
    return f"a C-contiguous array of {of.name.decode()} [{shape}]"


cdef void release(Py_buffer *views, int64_t count) noexcept:
    for at in range(count):
        PyBuffer_Release(&views[at])  # does nothing where nothing is held


cdef int64_t whole(str name, object given) except? -1:
    """An integer of 64 bits."""
    try:
        return PyNumber_Index(given)
    except OverflowError:
        raise ValueError(f"{name} must fit 64 bits, got {given:#x}"[:80]) from None


# Both without a branch for each row: a difference is negative, and so has the sign bit, where a rule is broken. None of them
# overflows where the numbers themselves have no sign.


cdef int check_ranges(str name, const int64_t *ranges, int64_t count, int64_t n) except -1:
    cdef uint64_t signs = 0
    cdef int64_t at, start, stop
    for at in range(count):
        signs |= (
            <uint64_t>ranges[2 * at] | <uint64_t>ranges[2 * at + 1]
            | (<uint64_t>ranges[2 * at + 1] - <uint64_t>ranges[2 * at]) | (<uint64_t>n - <uint64_t>ranges[2 * at + 1])
        )
    if signs >> 63 == 0:
        return 0
    for at in range(count):
        start, stop = ranges[2 * at], ranges[2 * at + 1]
        if not 0 <= start <= stop <= n:
            break
    raise ValueError(f"{name} must have 0 <= start <= stop <= {n}, the rows of the table, got [{start}, {stop})")


cdef int check_rows(str name, const int64_t *rows, int64_t count, int64_t n) except -1:
    if count == 0:
        return 0
    cdef uint64_t signs = <uint64_t>rows[0] | (<uint64_t>n - 1 - <uint64_t>rows[count - 1])
    cdef int64_t at
    for at in range(1, count):
        signs |= <uint64_t>rows[at] | (<uint64_t>rows[at] - 1 - <uint64_t>rows[at - 1])
    if signs >> 63:
        raise ValueError(f"{name}: rows must be distinct, rising, and in [0, {n})")
    return 0


cdef void *aligned(void *buffer) noexcept nogil:
    return <void *>((<uintptr_t>buffer + 63) & ~(<uintptr_t>63))


# ---- ranking ----


cdef class Table:
    """A table as the kernel knows it; holds the arrays. ``bias`` may be None, and ``codes``: then what follows is not read.

    Shapes are those of ``topk.h``, and ``max_norm`` is [1]. Values may be any: wrong ones give wrong results.
    """

    cdef hiersrec_table table
    cdef int64_t stage_ends[HIERSREC_MAX_STAGES]
    cdef Py_buffer views[8]

    def __cinit__(self, vectors, bias, codes, scales, suffix_norms, quantization_errors, stage_ends, max_norm):
        cdef hiersrec_table *table = &self.table
        cdef Py_buffer *views = self.views
        table.vectors = <const float *>hold(&views[0], vectors, &FLOAT32, ANY, ANY, "vectors")
        table.n, table.dimension = views[0].shape[0], views[0].shape[1]
        if not (1 <= table.n <= HIERSREC_MAX_ROWS and 1 <= table.dimension <= HIERSREC_MAX_DIMENSION):
            raise ValueError(
                f"vectors must have 1 to {HIERSREC_MAX_ROWS} rows and 1 to {HIERSREC_MAX_DIMENSION} dimensions, "
                f"got [{table.n}, {table.dimension}]"
            )
        cdef int64_t rows = table.n if codes is None else (table.n + HIERSREC_BLOCK - 1) // HIERSREC_BLOCK * HIERSREC_BLOCK
        if bias is not None:
            table.bias = <const float *>hold(&views[1], bias, &FLOAT32, rows, NONE, "bias")
        if codes is None:
            return
        cdef const void *ends = hold(&views[2], stage_ends, &INT64, ANY, NONE, "stage_ends")
        cdef int64_t stages = views[2].shape[0], padded = (table.dimension + 7) // 8 * 8, at
        cdef bint fits = 1 <= stages <= HIERSREC_MAX_STAGES
        if fits:
            memcpy(self.stage_ends, ends, stages * sizeof(int64_t))
            for at in range(stages):
                fits &= self.stage_ends[at] % 8 == 0 and self.stage_ends[at] > (self.stage_ends[at - 1] if at else 0)
            fits &= self.stage_ends[stages - 1] == padded
        if not fits:
            raise ValueError(f"stage_ends must be 1 to {HIERSREC_MAX_STAGES} rising multiples of 8 up to {padded}")
        table.stage_ends = self.stage_ends
        table.stage_count = stages
        table.codes = <const uint8_t *>hold(&views[3], codes, &UINT8, rows * padded, NONE, "codes")
        table.scales = <const uint16_t *>hold(&views[4], scales, &UINT16, rows, NONE, "scales")
        table.suffix_norms = <const uint16_t *>hold(&views[5], suffix_norms, &UINT16, stages - 1, rows, "suffix_norms")
        table.quantization_errors = <const float *>hold(
            &views[6], quantization_errors, &FLOAT32, 1 + stages, NONE, "quantization_errors")
        table.max_norm = (<const float *>hold(&views[7], max_norm, &FLOAT32, 1, NONE, "max_norm"))[0]

    def __dealloc__(self):
        release(self.views, 8)


cdef enum:
    PARTS = 7  # arrays of a request


def topk(Table table not None, requests not None, k):
    """Answer ``requests``: a list of (scores float32, rows int64, rows_scored, bytes_read), of at most ``k`` rows.

    A request is a tuple: query, ranges, rest or None, bitmap or None, skipped or None, covisited and their
    offsets or both None.
    """
    cdef int64_t n = table.table.n, most = min(whole("k", k), n)
    if most < 1:
        raise ValueError(f"k must be an integer >= 1, got {k}")
    asked = tuple(requests)  # which no other thread changes
    cdef int64_t count = len(asked), at
    if count == 0:
        return []
    all_scores = np.empty((count, most), np.float32)
    all_rows = np.empty((count, most), np.int64)
    # From here on no size overflows: the workspace takes a few times what the results do, and what a request does.
    cdef hiersrec_request *all_requests = <hiersrec_request *>calloc(count, sizeof(hiersrec_request))
    cdef Py_buffer *views = <Py_buffer *>calloc(count * PARTS + 2, sizeof(Py_buffer))
    cdef void *workspace = malloc(hiersrec_workspace(&table.table, count, most) + 64)
    cdef hiersrec_request *request
    cdef Py_buffer *view
    cdef float *scores
    cdef int64_t *rows
    try:
        if all_requests == NULL or views == NULL or workspace == NULL:
            raise MemoryError
        scores = <float *>hold(&views[count * PARTS], all_scores, &FLOAT32, count, most, "scores")
        rows = <int64_t *>hold(&views[count * PARTS + 1], all_rows, &INT64, count, most, "rows")
        for at in range(count):
            query, ranges, rest, bitmap, skipped, covisited, offsets = asked[at]
            request = &all_requests[at]
            view = &views[at * PARTS]
            request.query = <const float *>hold(view, query, &FLOAT32, table.table.dimension, NONE, "query")
            request.ranges = <const int64_t *>hold(&view[1], ranges, &INT64, ANY, 2, "ranges")
            request.range_count = view[1].shape[0]
            check_ranges("ranges", request.ranges, request.range_count, n)
            if rest is not None:
                request.rest = <const int64_t *>hold(&view[2], rest, &INT64, ANY, 2, "rest")
                request.rest_count = view[2].shape[0]
                check_ranges("rest", request.rest, request.rest_count, n)
            if bitmap is not None:
                request.bitmap = <const uint64_t *>hold(&view[3], bitmap, &UINT64, ANY, NONE, "bitmap")
                if view[3].shape[0] < (n + 63) // 64:
                    raise ValueError(f"bitmap must have at least {(n + 63) // 64} words, got {view[3].shape[0]}")
            if skipped is not None:
                request.skipped = <const int64_t *>hold(&view[4], skipped, &INT64, ANY, NONE, "skipped")
                request.skipped_count = view[4].shape[0]
                check_rows("skipped", request.skipped, request.skipped_count, n)
            if covisited is not None:
                request.covisited = <const int64_t *>hold(&view[5], covisited, &INT64, ANY, NONE, "covisited")
                request.covisited_count = view[5].shape[0]
                check_rows("covisited", request.covisited, request.covisited_count, n)
                request.offsets = <const float *>hold(
                    &view[6], offsets, &FLOAT32, request.covisited_count, NONE, "offsets")
            elif offsets is not None:
                raise ValueError("covisited and offsets go together: give both, or neither")
            request.scores = scores + at * most
            request.rows = rows + at * most
        with nogil:
            hiersrec_topk(&table.table, all_requests, count, most, aligned(workspace))
        found = []
        for at in range(count):
            request = &all_requests[at]
            found.append((
                all_scores[at, :request.count], all_rows[at, :request.count], request.rows_scored, request.bytes_read,
            ))
        return found
    finally:
        if views != NULL:
            release(views, count * PARTS + 2)
        free(views)
        free(all_requests)
        free(workspace)


def first_wrong_codes(Table table not None, start, stop):
    """The first row of ``[start, stop)``, ``start`` a multiple of 16, whose codes do not bound it; -1: there is none."""
    cdef int64_t row, first = whole("start", start), last = whole("stop", stop)
    if table.table.codes == NULL:
        raise ValueError("table must have codes")
    if not (0 <= first and first % HIERSREC_BLOCK == 0 and last <= table.table.n):
        raise ValueError(
            f"rows must be those of [0, {table.table.n}), from a multiple of {HIERSREC_BLOCK} on, got [{first}, {last})"
        )
    with nogil:
        row = hiersrec_first_wrong_codes(&table.table, first, last)
    return row


# ---- ids and sessions ----


def find_ids(ids, order, wanted):
    """int64 [m]: the row of each of ``wanted`` in ``ids`` [n], which ``order`` [n] sorts; -1 where it is not there.

    Raises:
        IndexError: ``order`` names rows outside of ``ids``.
    """
    cdef Py_buffer views[4]
    memset(views, 0, sizeof(views))
    cdef const int64_t *stored
    cdef const int64_t *sorting
    cdef const int64_t *sought
    cdef int64_t *found
    cdef int64_t at, low, half, count, row, n, many
    try:
        stored = <const int64_t *>hold(&views[0], ids, &INT64, ANY, NONE, "ids")
        n = views[0].shape[0]
        sorting = <const int64_t *>hold(&views[1], order, &INT64, n, NONE, "order")
        sought = <const int64_t *>hold(&views[2], wanted, &INT64, ANY, NONE, "wanted")
        many = views[2].shape[0]
        rows = np.empty(many, np.int64)
        found = <int64_t *>hold(&views[3], rows, &INT64, many, NONE, "rows")
        for at in range(many):
            low = 0
            count = n
            while count > 0:
                half = count // 2
                row = sorting[low + half]
                if not 0 <= row < n:
                    raise IndexError(f"order names row {row}, which is not in [0, {n})")
                if stored[row] < sought[at]:
                    low += half + 1
                    count -= half + 1
                else:
                    count = half
            found[at] = -1
            if low < n:
                row = sorting[low]
                if not 0 <= row < n:
                    raise IndexError(f"order names row {row}, which is not in [0, {n})")
                if stored[row] == sought[at]:
                    found[at] = row
        return rows
    finally:
        release(views, 4)


cdef int64_t distinct_items(
    const int64_t *clicks, int64_t length, const float *logits, int64_t *rows, float *sums
) noexcept nogil:
    """Write the distinct rows of a session, rising, and the sums of their logits or zeros; return how many there are."""
    cdef int64_t at, slot, to, count = 0
    cdef float logit
    for at in range(length):
        logit = 0 if logits == NULL else logits[at]
        slot = count
        while slot > 0 and rows[slot - 1] > clicks[at]:
            slot -= 1
        if slot > 0 and rows[slot - 1] == clicks[at]:
            sums[slot - 1] += logit
            continue
        for to in range(count, slot, -1):
            rows[to] = rows[to - 1]
            sums[to] = sums[to - 1]
        rows[slot] = clicks[at]
        sums[slot] = logit
        count += 1
    return count


def copy_rows(table, rows, out):
    """Copy ``rows`` int64 [m] of ``table`` float32 [n, d] to ``out`` float32 [m, d], without giving the GIL away.

    Raises:
        IndexError: a row is outside of ``table``. Rows before it are copied.
    """
    cdef Py_buffer views[3]
    memset(views, 0, sizeof(views))
    cdef const float *vectors
    cdef const int64_t *wanted
    cdef float *found
    cdef int64_t at, row, n, d, many
    try:
        vectors = <const float *>hold(&views[0], table, &FLOAT32, ANY, ANY, "table")
        n, d = views[0].shape[0], views[0].shape[1]
        wanted = <const int64_t *>hold(&views[1], rows, &INT64, ANY, NONE, "rows")
        many = views[1].shape[0]
        found = <float *>hold(&views[2], out, &FLOAT32, many, d, "out")
        if views[2].readonly:
            raise ValueError("out must be writable")
        for at in range(many):
            row = wanted[at]
            if not 0 <= row < n:
                raise IndexError(f"row {row} is not in [0, {n})")
            memcpy(&found[at * d], &vectors[row * d], d * sizeof(float))
    finally:
        release(views, 3)


def all_finite(values):
    """Whether ``values`` float32 [n] hold no NaN and no infinity; without giving the GIL away."""
    cdef Py_buffer view
    memset(&view, 0, sizeof(view))
    cdef uint32_t largest = 0, bits
    cdef int64_t at
    cdef const uint32_t *all_bits
    try:
        all_bits = <const uint32_t *>hold(&view, values, &FLOAT32, ANY, NONE, "values")
        for at in range(view.shape[0]):
            bits = all_bits[at] & 0x7fffffff
            largest = bits if bits > largest else largest
        return largest < 0x7f800000  # the exponent of what is not finite
    finally:
        release(&view, 1)


def session_items(session, logits):
    """Distinct rows of a session, rising, int64, and the sums of their logits [at least len(session)] or zeros, float32."""
    cdef Py_buffer views[4]
    memset(views, 0, sizeof(views))
    cdef const int64_t *clicks
    cdef const float *summands = NULL
    cdef int64_t *row
    cdef float *sum
    cdef int64_t length, count
    try:
        clicks = <const int64_t *>hold(&views[0], session, &INT64, ANY, NONE, "session")
        length = views[0].shape[0]
        if logits is not None:
            summands = <const float *>hold(&views[1], logits, &FLOAT32, ANY, NONE, "logits")
            if views[1].shape[0] < length:
                raise ValueError(f"logits must be at least {length}, one for each click, got {views[1].shape[0]}")
        rows = np.empty(length, np.int64)
        sums = np.empty(length, np.float32)
        row = <int64_t *>hold(&views[2], rows, &INT64, length, NONE, "rows")
        sum = <float *>hold(&views[3], sums, &FLOAT32, length, NONE, "sums")
        count = distinct_items(clicks, length, summands, row, sum)
        return rows[:count], sums[:count]
    finally:
        release(views, 4)


cdef class Covisitation:
    """A co-visitation scorer as C knows it; holds the arrays. Shapes are those of ``covisitation.h``, values may be any."""

    cdef hiersrec_covisitation scorer
    cdef Py_buffer views[7]

    def __cinit__(self, popularity, offsets, rows, counts, hidden_weight, hidden_bias, weight):
        cdef hiersrec_covisitation *scorer = &self.scorer
        cdef Py_buffer *views = self.views
        scorer.popularity = <const float *>hold(
            &views[0], popularity, &FLOAT32, ANY, HIERSREC_POPULARITIES, "popularity")
        scorer.n = views[0].shape[0]
        if not 1 <= scorer.n <= INT32_MAX:
            raise ValueError(f"popularity must have 1 to {INT32_MAX} rows, got {scorer.n}")
        scorer.offsets = <const int64_t *>hold(&views[1], offsets, &INT64, scorer.n + 1, NONE, "offsets")
        scorer.rows = <const int32_t *>hold(&views[2], rows, &INT32, ANY, NONE, "rows")
        scorer.edges = views[2].shape[0]
        scorer.counts = <const uint16_t *>hold(
            &views[3], counts, &UINT16, scorer.edges, HIERSREC_EDGE_COUNTS, "counts")
        scorer.hidden_bias = <const float *>hold(&views[4], hidden_bias, &FLOAT32, ANY, NONE, "hidden_bias")
        scorer.hidden = views[4].shape[0]
        if not 1 <= scorer.hidden <= HIERSREC_MAX_HIDDEN:
            raise ValueError(f"hidden_bias must have 1 to {HIERSREC_MAX_HIDDEN} values, got {scorer.hidden}")
        scorer.hidden_weight = <const float *>hold(
            &views[5], hidden_weight, &FLOAT32, HIERSREC_FEATURES, scorer.hidden, "hidden_weight")
        scorer.multiplier = int.from_bytes(os.urandom(8), "little") | 1
        scorer.weight = <const float *>hold(&views[6], weight, &FLOAT32, scorer.hidden + 1, NONE, "weight")

    def __dealloc__(self):
        release(self.views, 7)

    def score_offsets(self, session):
        """Rows covisited with ``session`` [at least 1], rising, int64, and their score offsets, float32."""
        cdef Py_buffer views[3]
        memset(views, 0, sizeof(views))
        cdef hiersrec_neighbors near
        cdef const int64_t *clicks
        cdef int64_t *row
        cdef float *offset
        cdef void *workspace = NULL
        cdef int64_t at, length, capacity, count
        try:
            clicks = <const int64_t *>hold(&views[0], session, &INT64, ANY, NONE, "session")
            length = views[0].shape[0]
            if not 1 <= length <= INT32_MAX:
                raise ValueError(f"session must have 1 to {INT32_MAX} clicks, got {length}")
            for at in range(length):
                if not 0 <= clicks[at] < self.scorer.n:
                    raise ValueError(f"session: rows must be in [0, {self.scorer.n}), got {clicks[at]}")
            capacity = hiersrec_covisitation_capacity(&self.scorer, clicks, length, &near)
            rows = np.empty(capacity, np.int64)
            offsets = np.empty(capacity, np.float32)
            row = <int64_t *>hold(&views[1], rows, &INT64, capacity, NONE, "rows")
            offset = <float *>hold(&views[2], offsets, &FLOAT32, capacity, NONE, "offsets")
            workspace = malloc(hiersrec_covisitation_workspace(capacity))
            if workspace == NULL:
                raise MemoryError
            with nogil:
                count = hiersrec_covisitation_offsets(
                    &self.scorer, clicks, length, &near, capacity, row, offset, NULL, workspace)
            return rows[:count], offsets[:count]
        finally:
            free(workspace)
            release(views, 3)


# ---- categories ----


cdef uint8_t *marked(const int64_t *first, int64_t count, int64_t categories) except NULL:
    """[categories], 1 for those that come ``first``; in memory of malloc."""
    cdef uint8_t *is_first = <uint8_t *>calloc(categories, 1)
    cdef int64_t at
    if is_first == NULL:
        raise MemoryError
    for at in range(count):
        if not 0 <= first[at] < categories or is_first[first[at]]:
            free(is_first)
            raise ValueError(f"first: categories must be distinct, and in [0, {categories}), got {first[at]}")
        is_first[first[at]] = 1
    return is_first


def choose(logits, ranges, eligible, first, rows, least, double top_p, ordered):
    """Categories by logit: see ``hiersrec_sdk.ranking.candidates.Choice``, whose fields this returns."""
    cdef int64_t wanted_rows = whole("rows", rows), wanted_eligible = whole("least", least)
    cdef int64_t named = whole("ordered", ordered)
    if named < 0:
        raise ValueError(f"ordered must be an integer >= 0, got {named}")
    cdef Py_buffer views[6]
    memset(views, 0, sizeof(views))
    cdef const float *logit
    cdef const int64_t *range_of
    cdef const int64_t *eligible_in = NULL
    cdef const int64_t *ahead = NULL
    cdef int64_t *ordering
    cdef int64_t *taken_ranges
    cdef float *odds = NULL
    cdef uint8_t *is_first = NULL
    cdef int64_t categories, taken, at, first_count = 0
    cdef double total
    try:
        logit = <const float *>hold(&views[0], logits, &FLOAT32, ANY, NONE, "logits")
        categories = views[0].shape[0]
        if categories < 1:
            raise ValueError("logits must be those of at least one category, got none")
        range_of = <const int64_t *>hold(&views[1], ranges, &INT64, categories, 2, "ranges")
        if eligible is not None:
            eligible_in = <const int64_t *>hold(&views[2], eligible, &INT64, categories, NONE, "eligible")
        if first is not None:
            ahead = <const int64_t *>hold(&views[3], first, &INT64, ANY, NONE, "first")
            first_count = views[3].shape[0]
            is_first = marked(ahead, first_count, categories)
        named = min(named, categories)
        order = np.empty((2, categories), np.int64)
        chosen = np.empty((categories, 2), np.int64)
        ordering = <int64_t *>hold(&views[4], order, &INT64, 2, categories, "order")
        taken_ranges = <int64_t *>hold(&views[5], chosen, &INT64, categories, 2, "chosen")
        odds = <float *>malloc(2 * categories * sizeof(float))
        if odds == NULL:
            raise MemoryError
        with nogil:
            taken = hiersrec_choose(
                logit, range_of, eligible_in, categories, ahead, first_count, is_first, wanted_rows, wanted_eligible,
                top_p, named, ordering, taken_ranges, odds, &total, odds + categories, ordering + categories)
        best = []
        for at in range(named):
            best.append((ordering[at], odds[ordering[at]] / total))
        return order[0, :taken], chosen[:taken].copy(), tuple(best)  # a result keeps the ranges, not the room for all
    finally:
        free(odds)
        free(is_first)
        release(views, 6)


# ---- one session, from its rows to its results ----


cdef struct session_work:
    # what was asked
    const int64_t *session
    int64_t length
    const float *repeat_logits
    const int64_t *known
    int64_t known_count
    const float *logits
    const int64_t *first
    int64_t first_count
    const uint8_t *is_first
    int64_t least
    hiersrec_request request
    # what came out, in memory of malloc
    int64_t *order
    int64_t *chosen
    float *odds
    double total
    int64_t taken
    int64_t range_count
    int64_t *covisited
    float *offsets
    int64_t covisited_count
    int64_t *elsewhere
    float *elsewhere_offsets
    int64_t elsewhere_count


cdef enum:
    NO_MEMORY = 1
    WRONG_RANGES = 2
    WRONG_EXTRAS = 3


cdef class SessionRanking:
    """What calls that are alike ask of the rows of a bundle, prepared: see :class:`hiersrec_sdk.ranking.backend.Scope`."""

    cdef Table table
    cdef Covisitation covisitation
    cdef const int64_t *leaves
    cdef const int64_t *eligible
    cdef const uint64_t *bitmap
    cdef const int64_t *deleted
    cdef const int64_t *extra_offsets
    cdef const int64_t *extra_rows
    cdef int64_t categories, deleted_count, extras, rows, ordered, k
    cdef double top_p
    cdef bint exact
    cdef Py_buffer views[6]

    def __cinit__(
        self, Table table not None, Covisitation covisitation, leaves, eligible, bitmap, deleted, extra_offsets,
        extra_rows, rows, double top_p, bint exact, k, ordered
    ):
        cdef Py_buffer *views = self.views
        cdef int64_t n = table.table.n
        self.table, self.covisitation = table, covisitation
        self.rows, self.top_p, self.exact = whole("rows", rows), top_p, exact
        self.k, self.ordered = min(whole("k", k), n), whole("ordered", ordered)
        if self.k < 1 or self.ordered < 0:
            raise ValueError(f"k must be an integer >= 1 and ordered one >= 0, got {k} and {ordered}")
        if covisitation is not None and covisitation.scorer.n != n:
            raise ValueError(f"covisitation must be of {n} rows, those of the table, got {covisitation.scorer.n}")
        self.leaves = <const int64_t *>hold(&views[0], leaves, &INT64, ANY, 2, "leaves")
        self.categories = views[0].shape[0]
        if self.categories < 1:
            raise ValueError("leaves must be those of at least one category, got none")
        self.ordered = min(self.ordered, self.categories)
        if eligible is not None:
            self.eligible = <const int64_t *>hold(&views[1], eligible, &INT64, self.categories, NONE, "eligible")
        if bitmap is not None:
            self.bitmap = <const uint64_t *>hold(&views[2], bitmap, &UINT64, ANY, NONE, "bitmap")
            if views[2].shape[0] < (n + 63) // 64:
                raise ValueError(f"bitmap must have at least {(n + 63) // 64} words, got {views[2].shape[0]}")
        if deleted is not None:
            self.deleted = <const int64_t *>hold(&views[3], deleted, &INT64, ANY, NONE, "deleted")
            self.deleted_count = views[3].shape[0]
        if extra_rows is not None:
            self.extra_offsets = <const int64_t *>hold(
                &views[4], extra_offsets, &INT64, self.categories + 1, NONE, "extra_offsets")
            self.extra_rows = <const int64_t *>hold(&views[5], extra_rows, &INT64, ANY, NONE, "extra_rows")
            self.extras = views[5].shape[0]

    def __dealloc__(self):
        release(self.views, 6)

    def __call__(self, session, known, repeat_logits, logits, query, first, skipped, least):
        """The fields of a :class:`hiersrec_sdk.ranking.backend.RankedSession`."""
        cdef Py_buffer views[10]
        memset(views, 0, sizeof(views))
        cdef session_work work
        memset(&work, 0, sizeof(work))
        cdef uint8_t *is_first = NULL
        cdef int64_t at, n = self.table.table.n
        cdef int failed = 0
        work.least = whole("least", least)
        try:
            work.session = <const int64_t *>hold(&views[0], session, &INT64, ANY, NONE, "session")
            work.length = views[0].shape[0]
            if not 1 <= work.length <= INT32_MAX:
                raise ValueError(f"session must have 1 to {INT32_MAX} clicks, got {work.length}")
            for at in range(work.length):
                if work.session[at] < 0:
                    raise ValueError(f"session: rows must not be negative, got {work.session[at]}")
            work.known, work.known_count = work.session, work.length
            if known is not session:
                work.known = <const int64_t *>hold(&views[1], known, &INT64, ANY, NONE, "known")
                work.known_count = views[1].shape[0]
            for at in range(work.known_count):
                if not 0 <= work.known[at] < n:
                    raise ValueError(f"known: rows must be in [0, {n}), got {work.known[at]}")
            if repeat_logits is not None:
                work.repeat_logits = <const float *>hold(
                    &views[2], repeat_logits, &FLOAT32, ANY, NONE, "repeat_logits")
                if views[2].shape[0] < work.length:
                    raise ValueError(
                        f"repeat_logits must be at least {work.length}, one for each click, got {views[2].shape[0]}")
            work.logits = <const float *>hold(&views[3], logits, &FLOAT32, self.categories, NONE, "logits")
            work.request.query = <const float *>hold(
                &views[4], query, &FLOAT32, self.table.table.dimension, NONE, "query")
            work.request.bitmap = self.bitmap
            if first is not None:
                work.first = <const int64_t *>hold(&views[5], first, &INT64, ANY, NONE, "first")
                work.first_count = views[5].shape[0]
                work.is_first = is_first = marked(work.first, work.first_count, self.categories)
            if skipped is not None:
                work.request.skipped = <const int64_t *>hold(&views[6], skipped, &INT64, ANY, NONE, "skipped")
                work.request.skipped_count = views[6].shape[0]
                check_rows("skipped", work.request.skipped, work.request.skipped_count, n)
            scores, rows = np.empty(self.k, np.float32), np.empty(self.k, np.int64)
            work.request.scores = <float *>hold(&views[7], scores, &FLOAT32, self.k, NONE, "scores")
            work.request.rows = <int64_t *>hold(&views[8], rows, &INT64, self.k, NONE, "rows")
            with nogil:
                failed = self.rank(&work)
            if failed == NO_MEMORY:
                raise MemoryError
            if failed == WRONG_RANGES:
                check_ranges("leaves", work.chosen, work.taken, n)
            if failed == WRONG_EXTRAS:
                raise ValueError(f"extra_offsets must rise within the {self.extras} extra_rows")
            best = []
            for at in range(self.ordered):
                best.append((work.order[at], work.odds[work.order[at]] / work.total))
            if work.request.count < self.k:
                scores, rows = scores[:work.request.count], rows[:work.request.count]
            return (
                scores, rows, work.request.rows_scored, work.request.bytes_read,
                integers(work.order, work.taken), integers(work.chosen, 2 * work.range_count).reshape(-1, 2), tuple(best),
                integers(work.covisited, work.covisited_count), floats(work.offsets, work.covisited_count),
                integers(work.elsewhere, work.elsewhere_count), floats(work.elsewhere_offsets, work.elsewhere_count),
            )
        finally:
            free(work.order)
            free(work.chosen)
            free(work.odds)
            free(work.covisited)
            free(work.offsets)
            free(work.elsewhere)
            free(work.elsewhere_offsets)
            free(is_first)
            release(views, 10)

    cdef int rank(self, session_work *work) noexcept nogil:
        """All of it; what it allocates is the caller's to free."""
        cdef hiersrec_request *request = &work.request
        cdef int failed = self.find_covisited(work)
        if not failed:
            failed = self.choose_ranges(work)
        if failed:
            return failed
        request.ranges, request.range_count = work.chosen, work.range_count
        request.covisited, request.offsets = work.covisited, work.offsets
        request.covisited_count = work.covisited_count
        cdef int64_t *rest = NULL
        cdef void *workspace = malloc(hiersrec_workspace(&self.table.table, 1, self.k) + 64)
        if workspace == NULL:
            return NO_MEMORY
        if self.exact:
            rest = <int64_t *>malloc((work.range_count + 1) * 2 * sizeof(int64_t))
            if rest == NULL:
                free(workspace)
                return NO_MEMORY
            request.rest = rest
            request.rest_count = complement(work.chosen, work.range_count, self.table.table.n, rest)
        hiersrec_topk(&self.table.table, request, 1, self.k, aligned(workspace))
        free(workspace)
        free(rest)
        return 0

    cdef int find_covisited(self, session_work *work) noexcept nogil:
        """The rows that rank whatever the categories are, and those that lie elsewhere: deleted ones, and rows beyond."""
        cdef const hiersrec_covisitation *scorer = NULL if self.covisitation is None else &self.covisitation.scorer
        cdef hiersrec_neighbors near
        cdef int64_t at, row, own_count, capacity = 0, found = 0, kept = 0, own = 0, gone = 0, n = self.table.table.n
        cdef void *workspace
        cdef int64_t *own_rows = <int64_t *>malloc(work.length * (sizeof(int64_t) + sizeof(float)))
        if own_rows == NULL:
            return NO_MEMORY
        cdef float *sums = <float *>(own_rows + work.length)
        own_count = distinct_items(work.session, work.length, work.repeat_logits, own_rows, sums)
        if scorer != NULL and work.known_count:
            capacity = hiersrec_covisitation_capacity(scorer, work.known, work.known_count, &near)
        work.covisited = <int64_t *>malloc((capacity + own_count) * sizeof(int64_t))
        work.offsets = <float *>malloc((capacity + own_count) * sizeof(float))
        workspace = malloc(hiersrec_covisitation_workspace(capacity) if capacity else 1)
        if work.covisited == NULL or work.offsets == NULL or workspace == NULL:
            free(own_rows)
            free(workspace)
            return NO_MEMORY
        if capacity:
            found = hiersrec_covisitation_offsets(
                scorer, work.known, work.known_count, &near, capacity, work.covisited, work.offsets, &self.table.table,
                workspace)
        else:
            while found < own_count and own_rows[found] < n:
                work.covisited[found] = own_rows[found]
                work.offsets[found] = 0
                found += 1
        free(workspace)
        # the session's own rows below n should be among those found; others are left out
        while own < own_count and own_rows[own] < n:
            own += 1
        if self.deleted_count or own < own_count:
            work.elsewhere = <int64_t *>malloc((found + own_count) * sizeof(int64_t))
            work.elsewhere_offsets = <float *>malloc((found + own_count) * sizeof(float))
            if work.elsewhere == NULL or work.elsewhere_offsets == NULL:
                free(own_rows)
                return NO_MEMORY
        own = 0
        for at in range(found):
            row = work.covisited[at]
            if self.deleted_count and is_listed(self.deleted, self.deleted_count, row):
                work.elsewhere[gone] = row
                work.elsewhere_offsets[gone] = work.offsets[at]
                gone += 1
                continue
            work.covisited[kept] = row
            work.offsets[kept] = work.offsets[at]
            while own < own_count and own_rows[own] < row:
                own += 1
            if own < own_count and own_rows[own] == row:
                work.offsets[kept] += sums[own]
                own += 1
            kept += 1
        work.covisited_count = kept
        while own < own_count and own_rows[own] < n:
            own += 1
        while own < own_count:
            work.elsewhere[gone] = own_rows[own]
            work.elsewhere_offsets[gone] = sums[own]
            gone += 1
            own += 1
        work.elsewhere_count = gone
        free(own_rows)
        return 0

    cdef int choose_ranges(self, session_work *work) noexcept nogil:
        """The categories that are candidates, and their rows: as ranges, then one by one those listed in them beside."""
        cdef int64_t categories = self.categories, at, row, start, stop, count = 0, listed = 0, filled = 0, n = self.table.table.n
        work.order = <int64_t *>malloc(2 * categories * sizeof(int64_t))
        work.odds = <float *>malloc(2 * categories * sizeof(float))
        work.chosen = <int64_t *>malloc(2 * categories * sizeof(int64_t))
        if work.order == NULL or work.odds == NULL or work.chosen == NULL:
            return NO_MEMORY
        work.taken = hiersrec_choose(
            work.logits, self.leaves, self.eligible, categories, work.first, work.first_count, work.is_first, self.rows,
            work.least, self.top_p, self.ordered, work.order, work.chosen, work.odds, &work.total,
            work.odds + categories, work.order + categories)
        if not are_ranges(work.chosen, work.taken, n):
            return WRONG_RANGES
        work.range_count = work.taken
        if self.extras == 0:
            return 0
        for at in range(work.taken):
            start, stop = self.extra_offsets[work.order[at]], self.extra_offsets[work.order[at] + 1]
            if 0 <= start <= stop <= self.extras and count <= self.extras:
                count += stop - start
        if count > self.extras:
            return WRONG_EXTRAS
        if count == 0:
            return 0
        cdef int64_t *extra = <int64_t *>malloc(count * sizeof(int64_t))
        cdef int64_t *chosen = <int64_t *>realloc(work.chosen, 2 * (work.taken + count) * sizeof(int64_t))
        if chosen != NULL:
            work.chosen = chosen
        cdef int64_t *rising = <int64_t *>malloc(2 * work.taken * sizeof(int64_t))
        if extra == NULL or chosen == NULL or rising == NULL:
            free(extra)
            free(rising)
            return NO_MEMORY
        for at in range(work.taken):
            if chosen[2 * at] < chosen[2 * at + 1]:  # else another range may begin there too
                rising[2 * filled], rising[2 * filled + 1] = chosen[2 * at], chosen[2 * at + 1]
                filled += 1
        qsort(rising, filled, 2 * sizeof(int64_t), by_first)
        for at in range(work.taken):
            start, stop = self.extra_offsets[work.order[at]], self.extra_offsets[work.order[at] + 1]
            if 0 <= start <= stop <= self.extras:
                for row in self.extra_rows[start:stop]:
                    if 0 <= row < n and listed < count and not in_ranges(rising, filled, row):
                        extra[listed] = row
                        listed += 1
        qsort(extra, listed, sizeof(int64_t), by_first)
        for at in range(listed):
            if at == 0 or extra[at] > extra[at - 1]:
                chosen[2 * work.range_count] = extra[at]
                chosen[2 * work.range_count + 1] = extra[at] + 1
                work.range_count += 1
        free(extra)
        free(rising)
        return 0


# ---- the same session in the rows that were added since ----


cdef struct moved_item:
    int64_t row
    int64_t position  # offsets of a row are summed in this order
    float offset


cdef class AddedRanking:
    """What calls that are alike ask of a delta segment, prepared: see :class:`hiersrec_sdk.ranking.backend.AddedScope`."""

    cdef Table table
    cdef dict placements_of_leaf
    cdef list rows_of_placement
    cdef const uint64_t *live
    cdef const uint64_t *bitmap
    cdef const int64_t *deleted
    cdef const int64_t *successors
    cdef int64_t first_row, deleted_count, k
    cdef bint exact
    cdef Py_buffer views[4]

    def __cinit__(
        self, Table table not None, first_row, dict placements_of_leaf not None, list rows_of_placement not None, live,
        bitmap, deleted, successors, bint exact, k
    ):
        cdef Py_buffer *views = self.views
        cdef int64_t words = (table.table.n + 63) // 64
        self.table, self.first_row, self.exact, self.k = table, whole("first_row", first_row), exact, whole("k", k)
        if self.k < 1 or self.first_row < 0:
            raise ValueError(f"k must be an integer >= 1 and first_row one >= 0, got {k} and {first_row}")
        self.placements_of_leaf, self.rows_of_placement = placements_of_leaf, rows_of_placement
        if live is not None:
            self.live = <const uint64_t *>hold(&views[0], live, &UINT64, words, NONE, "live")
        if bitmap is not None:
            self.bitmap = <const uint64_t *>hold(&views[1], bitmap, &UINT64, words, NONE, "bitmap")
        self.deleted = <const int64_t *>hold(&views[2], deleted, &INT64, ANY, NONE, "deleted")
        self.deleted_count = views[2].shape[0]
        self.successors = <const int64_t *>hold(&views[3], successors, &INT64, self.deleted_count, NONE, "successors")

    def __dealloc__(self):
        release(self.views, 4)

    def __call__(self, ranked, query, skipped):
        """The fields of a :class:`hiersrec_sdk.ranking.backend.RankedAdded`."""
        scores, rows, rows_scored, bytes_read, taken, _, _, covisited, offsets, elsewhere, elsewhere_offsets = ranked
        cdef Py_buffer views[9]
        memset(views, 0, sizeof(views))
        cdef hiersrec_request request
        memset(&request, 0, sizeof(request))
        cdef int64_t n = self.table.table.n, most = min(self.k, n), count, kept, moved, candidates, at, begin
        cdef uint64_t *marks = NULL
        cdef moved_item *items = NULL
        cdef int64_t *numbers = NULL
        cdef float *sums = NULL
        cdef void *workspace = NULL
        cdef const int64_t *given
        cdef const float *best
        try:
            request.query = <const float *>hold(&views[0], query, &FLOAT32, self.table.table.dimension, NONE, "query")
            given = <const int64_t *>hold(&views[1], elsewhere, &INT64, ANY, NONE, "elsewhere")
            count = views[1].shape[0]
            best = <const float *>hold(&views[2], elsewhere_offsets, &FLOAT32, count, NONE, "elsewhere_offsets")
            items = <moved_item *>malloc((count + 1) * sizeof(moved_item))
            marks = <uint64_t *>calloc((n + 63) // 64, sizeof(uint64_t))
            if items == NULL or marks == NULL:
                raise MemoryError
            moved = self.find_moved(given, best, count, items)
            given = <const int64_t *>hold(&views[3], taken, &INT64, ANY, NONE, "taken")
            candidates = self.mark_candidates(given, views[3].shape[0], marks)
            if not (self.exact or candidates or moved):
                return scores, rows, rows_scored, bytes_read, None, covisited, offsets
            if skipped is not None:
                given = <const int64_t *>hold(&views[4], skipped, &INT64, ANY, NONE, "skipped")
                request.skipped_count = views[4].shape[0]
                check_rows("skipped", given, request.skipped_count, self.first_row + n)
            # ranges, rest, skipped, covisited, rows
            numbers = <int64_t *>malloc((4 * candidates + 2 + request.skipped_count + moved + most) * sizeof(int64_t))
            sums = <float *>malloc((moved + most) * sizeof(float))
            workspace = malloc(hiersrec_workspace(&self.table.table, 1, most) + 64)
            if numbers == NULL or sums == NULL or workspace == NULL:
                raise MemoryError
            request.ranges, request.range_count = numbers, candidates
            write_marked(marks, n, numbers)
            request.rest = numbers + 2 * candidates
            if skipped is not None:
                begin = not_above(given, 1, request.skipped_count, self.first_row - 1)
                request.skipped_count -= begin
                request.skipped = numbers + 4 * candidates + 2
                for at in range(request.skipped_count):
                    (<int64_t *>request.skipped)[at] = given[begin + at] - self.first_row
            request.covisited = numbers + 4 * candidates + 2 + request.skipped_count
            request.offsets, request.covisited_count = sums, moved
            for at in range(moved):
                (<int64_t *>request.covisited)[at], sums[at] = items[at].row, items[at].offset
            request.rows, request.scores = <int64_t *>request.covisited + moved, sums + moved
            request.bitmap = self.bitmap
            with nogil:
                if self.exact:
                    request.rest_count = complement(numbers, candidates, n, <int64_t *>request.rest)
                else:
                    request.rest = NULL
                hiersrec_topk(&self.table.table, &request, 1, most, aligned(workspace))
            ranges = integers(request.ranges, 2 * candidates).reshape(-1, 2)
            if moved:
                for at in range(moved):
                    items[at].row += self.first_row
                covisited, offsets = with_moved(covisited, offsets, items, moved)
            rows_scored, bytes_read = rows_scored + request.rows_scored, bytes_read + request.bytes_read
            given = <const int64_t *>hold(&views[5], rows, &INT64, ANY, NONE, "rows")
            count = views[5].shape[0]
            best = <const float *>hold(&views[6], scores, &FLOAT32, count, NONE, "scores")
            kept = min(self.k, count + request.count)
            if request.count and not (count == kept and request.scores[0] <= best[count - 1]):
                scores, rows = np.empty(kept, np.float32), np.empty(kept, np.int64)
                merge(
                    best, given, count, request.scores, request.rows, request.count, self.first_row, kept,
                    <float *>hold(&views[7], scores, &FLOAT32, kept, NONE, "scores"),
                    <int64_t *>hold(&views[8], rows, &INT64, kept, NONE, "rows"),
                )
            return scores, rows, rows_scored, bytes_read, ranges, covisited, offsets
        finally:
            free(marks)
            free(items)
            free(numbers)
            free(sums)
            free(workspace)
            release(views, 9)

    cdef int64_t find_moved(
        self, const int64_t *elsewhere, const float *offsets, int64_t count, moved_item *items
    ) except -1:
        """Where covisited items lie now: distinct rows of the delta, rising, with the sums of their offsets."""
        cdef int64_t at, row, position, found = 0, moved = 0
        for at in range(count):
            if elsewhere[at] >= self.first_row:
                row = elsewhere[at] - self.first_row
            else:
                position = not_above(self.deleted, 1, self.deleted_count, elsewhere[at]) - 1
                if position < 0 or self.deleted[position] != elsewhere[at] or self.successors[position] < 0:
                    continue  # it was removed
                row = self.successors[position]
            if row >= self.table.table.n:
                raise ValueError(f"elsewhere: the delta segment has no row {row}")
            items[found].row, items[found].position, items[found].offset = row, at, offsets[at]
            found += 1
        qsort(items, found, sizeof(moved_item), by_row)
        for at in range(found):
            if moved and items[moved - 1].row == items[at].row:
                items[moved - 1].offset += items[at].offset
            else:
                items[moved] = items[at]
                moved += 1
        return moved

    cdef int64_t mark_candidates(self, const int64_t *leaves, int64_t count, uint64_t *marks) except -1:
        """Set the bits of the live rows that these leaf categories make candidates; how many that are.

        With the interpreter's lock, as the lists grow while snapshots that see their beginning are read.
        """
        cdef int64_t at, row, n = self.table.table.n, found = 0
        cdef uint64_t bit
        cdef set placements = set()
        for at in range(count):
            of_leaf = self.placements_of_leaf.get(leaves[at])
            if of_leaf is not None:
                placements.update(of_leaf)
        for placement in placements:
            for each in <list?>self.rows_of_placement[placement]:
                row = each
                if not 0 <= row < n:
                    break  # added after the snapshot
                bit = <uint64_t>1 << (row & 63)
                if (self.live == NULL or self.live[row >> 6] & bit) and not marks[row >> 6] & bit:
                    marks[row >> 6] |= bit
                    found += 1
        return found


cdef int by_row(const void *one, const void *other) noexcept nogil:
    cdef const moved_item *a = <const moved_item *>one
    cdef const moved_item *b = <const moved_item *>other
    if a.row != b.row:
        return (a.row > b.row) - (a.row < b.row)
    return (a.position > b.position) - (a.position < b.position)


cdef void write_marked(const uint64_t *marks, int64_t n, int64_t *ranges) noexcept nogil:
    """Write a range [row, row + 1) for each bit that is set."""
    cdef int64_t word, row, found = 0
    for word in range((n + 63) // 64):
        if marks[word]:
            for row in range(64 * word, 64 * word + 64):
                if marks[word] >> (row & 63) & 1:
                    ranges[2 * found], ranges[2 * found + 1] = row, row + 1
                    found += 1


cdef tuple with_moved(object covisited, object offsets, const moved_item *items, int64_t count):
    """``covisited`` and ``offsets`` with these items after them."""
    cdef int64_t at
    rows, sums = np.empty(count, np.int64), np.empty(count, np.float32)
    cdef Py_buffer views[2]
    memset(views, 0, sizeof(views))
    try:
        hold(&views[0], rows, &INT64, count, NONE, "rows")
        hold(&views[1], sums, &FLOAT32, count, NONE, "sums")
        for at in range(count):
            (<int64_t *>views[0].buf)[at] = items[at].row
            (<float *>views[1].buf)[at] = items[at].offset
    finally:
        release(views, 2)
    return np.concatenate((covisited, rows)), np.concatenate((offsets, sums))


cdef void merge(
    const float *scores, const int64_t *rows, int64_t count, const float *added_scores, const int64_t *added_rows,
    int64_t added_count, int64_t first_row, int64_t kept, float *to_scores, int64_t *to_rows
) noexcept nogil:
    """The best ``kept`` of both, by higher score, then lower row: those of the delta are the higher ones."""
    cdef int64_t at, left = 0, right = 0
    for at in range(kept):
        if right == added_count or (left < count and scores[left] >= added_scores[right]):
            to_scores[at], to_rows[at] = scores[left], rows[left]
            left += 1
        else:
            to_scores[at], to_rows[at] = added_scores[right], first_row + added_rows[right]
            right += 1


cdef int by_first(const void *one, const void *other) noexcept nogil:
    cdef int64_t a = (<const int64_t *>one)[0], b = (<const int64_t *>other)[0]
    return (a > b) - (a < b)


cdef bint are_ranges(const int64_t *ranges, int64_t count, int64_t n) noexcept nogil:
    cdef int64_t at
    cdef bint fits = True
    for at in range(count):
        fits &= 0 <= ranges[2 * at] <= ranges[2 * at + 1] <= n
    return fits


cdef int64_t not_above(const int64_t *values, int64_t step, int64_t count, int64_t value) noexcept nogil:
    """How many of ``values``, which rise and stand ``step`` apart, are not above ``value``."""
    cdef int64_t low = 0, half
    while count > 0:
        half = count // 2
        if values[step * (low + half)] <= value:
            low += half + 1
            count -= half + 1
        else:
            count = half
    return low


cdef bint is_listed(const int64_t *rows, int64_t count, int64_t row) noexcept nogil:
    cdef int64_t at = not_above(rows, 1, count, row)
    return at > 0 and rows[at - 1] == row


cdef bint in_ranges(const int64_t *rising, int64_t count, int64_t row) noexcept nogil:
    cdef int64_t at = not_above(rising, 2, count, row)
    return at > 0 and row < rising[2 * at - 1]


cdef int64_t complement(const int64_t *ranges, int64_t count, int64_t n, int64_t *rest) noexcept nogil:
    """Write the rows of [0, n) outside of ``ranges``: rising ranges, of which ``rest`` has room for ``count + 1``."""
    cdef int64_t at, stop = 0, found = 0
    memcpy(rest, ranges, 2 * count * sizeof(int64_t))
    qsort(rest, count, 2 * sizeof(int64_t), by_first)
    rest[2 * count], rest[2 * count + 1] = n, n
    cdef int64_t first, last
    for at in range(count + 1):
        first, last = rest[2 * at], rest[2 * at + 1]
        if first > stop:
            rest[2 * found], rest[2 * found + 1] = stop, first  # found <= at: its range has been read
            found += 1
        stop = max(stop, last)
    return found


cdef object integers(const int64_t *values, int64_t count):
    found = np.empty(count, np.int64)
    copy(found, values, count * sizeof(int64_t))
    return found


cdef object floats(const float *values, int64_t count):
    found = np.empty(count, np.float32)
    copy(found, values, count * sizeof(float))
    return found


cdef int copy(object to, const void *values, int64_t size) except -1:
    cdef Py_buffer view
    if size == 0:
        return 0
    PyObject_GetBuffer(to, &view, PyBUF_C_CONTIGUOUS)
    memcpy(view.buf, values, size)
    PyBuffer_Release(&view)
    return 0


# ---- for tests, and about instruction sets ----


def integer_dots(Table table not None, query):
    """For tests: (query codes int16, integer dot products int64 [blocks * 16]); None where codes cannot hold the query."""
    if table.table.codes == NULL:
        raise ValueError("table must have codes")
    cdef int64_t padded = table.table.stage_ends[table.table.stage_count - 1]
    cdef int64_t rows = (table.table.n + HIERSREC_BLOCK - 1) // HIERSREC_BLOCK * HIERSREC_BLOCK
    cdef Py_buffer views[3]
    memset(views, 0, sizeof(views))
    cdef const float *asked
    cdef int16_t *code
    cdef int64_t *product
    cdef void *workspace = NULL
    try:
        asked = <const float *>hold(&views[0], query, &FLOAT32, table.table.dimension, NONE, "query")
        codes = np.empty(padded, np.int16)
        products = np.empty(rows, np.int64)
        code = <int16_t *>hold(&views[1], codes, &INT16, padded, NONE, "codes")
        product = <int64_t *>hold(&views[2], products, &INT64, rows, NONE, "products")
        workspace = malloc(hiersrec_workspace(&table.table, 1, 1) + 64)
        if workspace == NULL:
            raise MemoryError
        held = hiersrec_integer_dots(&table.table, asked, code, product, aligned(workspace))
        return (codes, products) if held else None
    finally:
        free(workspace)
        release(views, 3)


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


def hash_strings(data, offsets):
    """uint64 [n]: the hash of each of the strings in ``data`` uint8, which begin at ``offsets`` int64 [n + 1]."""
    cdef Py_buffer views[3]
    memset(views, 0, sizeof(views))
    cdef const uint8_t *texts
    cdef const int64_t *edges
    cdef uint64_t *found
    cdef int64_t count, at
    cdef bint rises
    try:
        texts = <const uint8_t *>hold(&views[0], data, &UINT8, ANY, NONE, "data")
        # copied before they are checked: the file that they are mapped from may change
        edges = <const int64_t *>hold(&views[1], np.array(offsets), &INT64, ANY, NONE, "offsets")
        count = views[1].shape[0] - 1
        rises = count >= 0 and edges[0] >= 0 and edges[count] <= views[0].shape[0]
        for at in range(count):
            rises &= edges[at] <= edges[at + 1]
        if not rises:
            raise ValueError(f"offsets must rise within the {views[0].shape[0]} bytes of data")
        hashes = np.empty(count, np.uint64)
        found = <uint64_t *>hold(&views[2], hashes, &UINT64, count, NONE, "hashes")
        with nogil:
            hiersrec_hash_strings(texts, edges, count, found)
        return hashes
    finally:
        release(views, 3)
