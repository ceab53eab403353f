/*
 * The wide part of the model: which rows are linked to a session, and the boosts of their scores. The contract; what
 * the features are is said, and done in NumPy, in hiersrec_sdk/wide.py. As topk.h: the caller owns all buffers, nothing
 * is allocated or kept, and any number of threads may call.
 */
#ifndef HIERSREC_WIDE_H
#define HIERSREC_WIDE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HIERSREC_POPULARITIES = 5,
    HIERSREC_CLICKS_OF = 3,
    HIERSREC_FEATURES = HIERSREC_POPULARITIES + 2 + HIERSREC_CLICKS_OF + 8,
    HIERSREC_REACH = 8,
    HIERSREC_MOST_HIDDEN = 64
};

typedef struct {
    int64_t n;                  /* rows of the catalogue, at most 2^31 */
    const float *popularity;    /* [n, POPULARITIES] */
    int64_t edges;
    const int64_t *offsets;     /* [n + 1] rising from 0 to `edges`; a row whose offsets do not has no neighbours */
    const int32_t *rows;        /* [edges]; a neighbour outside [0, n) is passed over */
    const uint16_t *clicks;     /* [edges, CLICKS_OF] */
    int64_t hidden;             /* 1 to MOST_HIDDEN */
    const float *hidden_weight; /* [FEATURES, hidden] */
    const float *hidden_bias;   /* [hidden] */
    const float *weight;        /* [hidden + 1], the last is the bias */
} hiersrec_wide;

/* Rows that may be linked to `session` [length >= 1] of rows in [0, n), at most. */
int64_t hiersrec_wide_room(const hiersrec_wide *wide, const int64_t *session, int64_t length);

/* Bytes of the workspace for so much room; it needs no alignment beyond malloc's. */
int64_t hiersrec_wide_workspace(int64_t room);

/*
 * The rows linked to `session`, oldest first.
 *
 *   rows       [out] [room] distinct, rising
 *   boosts     [out] [room]
 *   workspace  hiersrec_wide_workspace(room) bytes
 *
 * Returns how many there are.
 */
int64_t hiersrec_wide_boosts(const hiersrec_wide *wide, const int64_t *session, int64_t length, int64_t room,
                             int64_t *rows, float *boosts, void *workspace);

#ifdef __cplusplus
}
#endif

#endif
