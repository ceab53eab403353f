/*
 * Whether the codes of a table are those of its rows: the contract. They come from a file that is not trusted.
 */
#ifndef HIERSREC_CODE_CHECK_H
#define HIERSREC_CODE_CHECK_H

#include "topk.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The first row of [start, stop) that the bound in query_codes.h does not hold for, or -1. It holds where
 *
 *   - the scale is finite, not negative, and 0 only where the row is;
 *   - quantization_errors are no smaller than the lengths that topk.h defines;
 *   - suffix_norms and max_norm are no smaller than the row's.
 *
 *   table        [in]  with codes, of n rows; the lengths of its arrays have been checked
 *   start        [in]  a multiple of 16
 *   stop         [in]  <= n
 *
 * Computed in float64, so that a length that was rounded up to float32 or bfloat16 is never taken for a smaller one.
 */
int64_t hiersrec_first_wrong_codes(const hiersrec_table *table, int64_t start, int64_t stop);

#ifdef __cplusplus
}
#endif

#endif
