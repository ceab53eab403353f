/*
 * Which categories are candidates: the contract. The caller owns all buffers, and has checked them as hiersrec_sdk/_kernel.pyx
 * does; nothing is allocated or kept.
 */
#ifndef HIERSREC_CATEGORIES_H
#define HIERSREC_CATEGORIES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Take categories by higher logit, then lower index, after those that come `first`, until they hold `rows` rows, and
 * `eligible` eligible rows, and `top_p` of the probability; the category that reaches all of these is taken.
 *
 *   logits           [in]  [categories] a NaN counts as -infinity
 *   ranges           [in]  [categories, 2] the rows [start, stop) of each; sums of their lengths wrap around in 64 bits
 *   eligible_in      [in]  [categories] eligible rows of each, or NULL: all rows; likewise
 *   categories       [in]  >= 1
 *   first            [in]  [first_count] distinct categories, in [0, categories), that are taken in any case, before all
 *                    others, in this order
 *   is_first         [in]  [categories] 1 for these, 0 for the others; NULL where there are none
 *   rows, eligible   [in]
 *   top_p             [in]  of the softmax of the logits, in float32, summed in float64; 0 asks for none, and from 1 on
 *                    all categories are taken
 *   ordered          [in]  how many categories to put in order, even if fewer are taken; 0 to categories
 *   order            [out] [categories] the taken ones, then the others that were ordered, best first; beyond unspecified
 *   chosen           [out] [categories, 2] ranges of those taken, in this order
 *   odds             [out] [categories] exp(logit - the largest), at least exp(-87); all alike where the largest is infinite
 *   total            [out] sum of the odds
 *   heap_scores, heap_rows  [categories] workspace
 *
 * Returns how many are taken.
 */
int64_t hiersrec_choose(const float *logits, const int64_t *ranges, const int64_t *eligible_in, int64_t categories,
                        const int64_t *first, int64_t first_count, const uint8_t *is_first, int64_t rows,
                        int64_t eligible, double top_p, int64_t ordered, int64_t *order, int64_t *chosen, float *odds, double *total,
                        float *heap_scores, int64_t *heap_rows);

#ifdef __cplusplus
}
#endif

#endif
