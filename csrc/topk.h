/*
 * Top-k over ranges of rows: the contract of the ranking kernel.
 *
 * What it computes
 *   Every row of a table that lies in one of the given ranges, and that the bitmap lets through, is scored against one
 *   query. The k best are written best first:
 *
 *       higher score first, then lower row.
 *
 *   A row whose score is NaN never ranks. Infinities are ordinary scores, and -0.0 equals 0.0. Fewer than k rows may
 *   rank: the return value says how many are valid. There are no sentinels and no padding; what lies beyond the
 *   returned count is unspecified.
 *
 * Scores are reproducible bit by bit
 *   float32   16 lanes; lane j starts at 0 and adds query[i] * row[i] for i = j, j + 16, j + 32, ... in that order,
 *             product and sum each rounded to float32 (no fused multiply-add). Then lane j += lane j + h for h = 8, 4,
 *             2, 1. Lane 0 is the score. Sixteen lanes are one AVX-512 register, two of AVX2, four of SSE or NEON, so
 *             that every instruction set can keep this order at full speed.
 *   int8      the dot product in int32, exact; then (float)dot * (query_scale * scales[row]), each step rounded to
 *             float32.
 *   bias      if there is one, bias[row] is added last, rounded to float32.
 *
 * Layout
 *   vectors   [n, dimension], rows one after the other without gaps. Any alignment of the element type is correct;
 *             64 bytes are fastest. A memory-mapped read-only table is fine: nothing but the output is written.
 *   ranges    [range_count, 2]: pairs [start, stop) of rows, each within the table, disjoint, in any order; empty
 *             ones are allowed.
 *   bitmap    one bit a row: row r is listed where bitmap[r / 64] >> (r % 64) & 1.
 *
 * Who owns what
 *   The caller owns every buffer and keeps it alive and unchanged during the call. Nothing is allocated, nothing is
 *   kept after the call, and there is no global state: any number of threads may call at once with outputs of their
 *   own. The caller has checked the arguments; the kernel trusts them.
 *
 * C11, without Python.h, malloc or threads.
 */
#ifndef HIERSREC_TOPK_H
#define HIERSREC_TOPK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The longest int8 vector whose dot product fits an int32 whatever its values: 2^14 * dimension < 2^31. */
#define HIERSREC_TOPK_MAX_INT8_DIMENSION 131071

/* Which rows rank, and what is added to their scores. */
typedef struct {
    const int64_t *ranges;  /* [in] [range_count, 2] */
    int64_t range_count;    /* [in] may be 0 */
    const float *bias;      /* [in] [n], or NULL */
    const uint64_t *bitmap; /* [in] [ceil(n / 64)], or NULL: every row ranks */
    bool deny;              /* [in] false: only listed rows rank; true: listed rows are left out */
} hiersrec_rows;

/*
 * Rank float32 rows.
 *
 *   vectors    [in]  [n, dimension]
 *   query      [in]  [dimension]
 *   dimension  [in]  >= 0
 *   which      [in]  the rows
 *   k          [in]  >= 0; no more results than this are written
 *   scores     [out] [k] scores, best first
 *   rows       [out] [k] their rows
 *
 * Returns the number of valid results, from 0 to k.
 */
int64_t hiersrec_topk_f32(const float *vectors, const float *query, int64_t dimension, const hiersrec_rows *which,
                          int64_t k, float *scores, int64_t *rows);

/*
 * Rank int8 rows. As above, and:
 *
 *   dimension    [in]  0 to HIERSREC_TOPK_MAX_INT8_DIMENSION
 *   scales       [in]  [n]: what one step of a row's codes is worth
 *   query_scale  [in]  the same for the query
 */
int64_t hiersrec_topk_i8(const int8_t *vectors, const float *scales, const int8_t *query, float query_scale,
                         int64_t dimension, const hiersrec_rows *which, int64_t k, float *scores, int64_t *rows);

#ifdef __cplusplus
}
#endif

#endif
