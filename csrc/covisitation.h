/*
 * The co-visitation scorer: which items were clicked near a session's items before, and the score offsets of these. The
 * contract; hiersrec_sdk/ranking/covisitation.py is the definition, and says what the features mean. The caller owns all
 * buffers, nothing is allocated or kept, and any number of threads may call.
 *
 * The caller has checked lengths, alignment, limits and the session's rows, as hiersrec_sdk/_kernel.pyx does at every call. The values
 * of the tables may be any: offsets and neighbors are checked here, where they are read, once.
 *
 * Offsets are reproducible bit by bit, where weights are finite
 *   Weighted counts are summed in double: the click at distance i from the newest one weighs d_i, where d_0 = 1 and
 *   d_i = d_(i-1) * 0.8f. Products are added click by click, the newest first, edge by edge, and the sum is rounded to
 *   float32. log(1 + count) is a series in double, rounded to float32: see covisitation.c; it does not depend on libm.
 *   A hidden unit starts at its bias and adds feature * weight for the features 13, 14, 16, 17, then 0 to 12 and 15, in this
 *   order, product and sum each rounded to float32. The offset starts at the last weight and adds weight * max(unit, 0),
 *   unit by unit, likewise.
 */
#ifndef HIERSREC_COVISITATION_H
#define HIERSREC_COVISITATION_H

#include "topk.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HIERSREC_POPULARITIES = 5,
    HIERSREC_EDGE_COUNTS = 3,
    HIERSREC_FEATURES = HIERSREC_POPULARITIES + 2 + HIERSREC_EDGE_COUNTS + 8,
    HIERSREC_REACH = 8,
    HIERSREC_MAX_HIDDEN = 64
};

typedef struct {
    int64_t n;                  /* rows of the catalog, 1 to INT32_MAX */
    const float *popularity;    /* [n, POPULARITIES] */
    int64_t edges;
    const int64_t *offsets;     /* [n + 1] rising from 0 to `edges`; a row whose offsets do not has no neighbors */
    const int32_t *rows;        /* [edges]; a neighbor outside [0, n) is passed over */
    const uint16_t *counts;     /* [edges, EDGE_COUNTS] */
    int64_t hidden;             /* 1 to MAX_HIDDEN */
    const float *hidden_weight; /* [FEATURES, hidden] */
    const float *hidden_bias;   /* [hidden] */
    const float *weight;        /* [hidden + 1], the last is the bias */
    uint64_t multiplier;        /* odd, of a hash of rows: a random one, which nobody can choose rows against; no result
                                   depends on it */
} hiersrec_covisitation;

/* The edges of a session's newest clicks, the newest first. */
typedef struct {
    int64_t first[HIERSREC_REACH], count[HIERSREC_REACH];
} hiersrec_neighbors;

/*
 * How many rows may be covisited with `session` [length], at most: no more than n.
 *
 *   session  [in]  [length] rows in [0, n), oldest first; length is 1 to INT32_MAX
 *   near     [out] their edges
 */
int64_t hiersrec_covisitation_capacity(const hiersrec_covisitation *scorer, const int64_t *session, int64_t length,
                                       hiersrec_neighbors *near);

/* Bytes of the workspace for this capacity; it needs no alignment beyond malloc's. */
int64_t hiersrec_covisitation_workspace(int64_t capacity);

/*
 * The rows covisited with `session`, oldest first, and the session's own.
 *
 *   near       [in]  as hiersrec_covisitation_capacity has filled it in
 *   capacity   [in]  hiersrec_covisitation_capacity(scorer, session, length, near)
 *   rows       [out] [capacity] distinct, rising
 *   offsets    [out] [capacity] what is added to the score of each
 *   next       [in]  a table of n rows of which the covisited ones are read next, or NULL: they are fetched meanwhile
 *   workspace  hiersrec_covisitation_workspace(capacity) bytes
 *
 * Returns how many there are.
 */
int64_t hiersrec_covisitation_offsets(const hiersrec_covisitation *scorer, const int64_t *session, int64_t length,
                                      const hiersrec_neighbors *near, int64_t capacity, int64_t *rows, float *offsets,
                                      const hiersrec_table *next, void *workspace);

#ifdef __cplusplus
}
#endif

#endif
