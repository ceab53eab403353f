/*
 * A query as integers: its codes, and the passes that bound scores with them. The bound is derived here. Internal to csrc
 * and its tests.
 *
 * The bound
 *   Let v be a row, s its scale, c its codes, v = s (c + e); q the query, t its step, a its codes, q = t a + f, all
 *   exact in the reals. In the first p dimensions
 *
 *       q.v = s (q.c + q.e) = s (t a.c + f.c + q.e)        |q.e| <= |q| |e|        |f.c| <= |f| 128 sqrt(p)
 *
 *   and in the others q.v <= |q| |v|. Let R be the largest |e| of the table (`quantization_errors`; a larger one where only
 *   leading bits of c are read), |.|p the length of a part of p dimensions, and |.|r that of the others (`suffix_norms`
 *   for v):
 *
 *       |q.v - s t a.c| <= s (|q|p R + |f|p 128 sqrt(p)) + |q|r |v|r
 *
 *   a.c is an exact integer. The bound has to hold for the float32 score, not for q.v. The score is summed in 16 lanes:
 *   d / 16 additions, a product and 4 folds make it differ from q.v by at most (d / 16 + 6) 2^-24 |q| |v|, with
 *   |v| <= s 128 sqrt(d). The bound itself is computed in float32, in fewer than 9 roundings of terms that are at most
 *   (1 + |f| / |q|) times that: up to 2 at the largest dimension. `slack` covers both by (d / 16 + 32) 2^-24 |q| 128 sqrt(d),
 *   times s like all of it. Rounding below the normal floats is absolute, at most 2^-149 an operation:
 *   `tiny` = (d + 64) 2^-149. Adding the bias rounds monotonically: a bound stays a bound.
 *
 *   All this holds where neither float32 products nor sums overflow and the query's step is a normal float. Other queries
 *   (zeros, NaN, infinities, out of scale) are answered by a plain scan.
 */
#ifndef HIERSREC_QUERY_CODES_H
#define HIERSREC_QUERY_CODES_H

#include "kernels.h"

/* The first pass reads the leading 4 bits of the first stage, the second its trailing 4 bits, each other pass a stage. */
typedef struct {
    pass coarse[1 + HIERSREC_MAX_STAGES]; /* by the leading 8 bits of the query's codes; every row */
    pass fine[1 + HIERSREC_MAX_STAGES];   /* by the trailing bits; rows that the coarse bounds let through */
    int64_t passes;
    query_group *coarse_groups, *fine_groups; /* [stage_ends[last] / 4] each, the caller's */
    float step, slack; /* bounds by both: scale * (step * (128 * coarse + fine) +- slack) +- tiny */
} query_codes;

/* Fill in the codes of `query` and the passes; false where codes cannot hold the query. */
bool hiersrec_encode_query(const hiersrec_table *table, const float *query, query_codes *codes);

/*
 * For tests: the query's codes, and the integer dot products of its codes with those of the rows by the instruction set in
 * use. These are the same on every instruction set.
 *
 *   query_codes  [out] [stage_ends[last]]
 *   dots         [out] [blocks * 16]
 *   workspace    hiersrec_workspace(table, 1, 1) bytes, aligned to 64
 *
 * Returns false, writing nothing, where codes cannot hold the query.
 */
bool hiersrec_integer_dots(const hiersrec_table *table, const float *query, int16_t *codes, int64_t *dots, void *workspace);

#endif
