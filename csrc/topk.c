/* The ranking kernel, in plain C that compilers turn into vector code. The contract is in topk.h. */
#include "topk.h"

#include <stddef.h>

/* The order of the float32 sum must not depend on the compiler: no fused multiply-add. GCC has no pragma for it and
   takes -ffp-contract=off from the build. */
#if defined(__clang__) || defined(_MSC_VER)
#pragma STDC FP_CONTRACT OFF
#endif

/* One portable binary, best instructions: the functions so marked are compiled once for each target, and the loader
   picks by the processor it finds. It takes glibc's loader, and GCC 12 to know these names. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define EACH_TARGET __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_TARGET
#endif

/* Helpers must be inlined into each clone: a call would leave its target. */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

enum { LANES = 16 };

INLINE float dot_f32(const float *restrict query, const float *restrict row, ptrdiff_t dimension)
{
    float lane[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= dimension; i += LANES)
        for (int j = 0; j < LANES; ++j)
            lane[j] += query[i + j] * row[i + j];
    for (int j = 0; i + j < dimension; ++j)
        lane[j] += query[i + j] * row[i + j];
    for (int j = 0; j < 8; ++j) /* one loop a step: with constant bounds each becomes one vector addition */
        lane[j] += lane[j + 8];
    for (int j = 0; j < 4; ++j)
        lane[j] += lane[j + 4];
    for (int j = 0; j < 2; ++j)
        lane[j] += lane[j + 2];
    lane[0] += lane[1];
    return lane[0];
}

INLINE int32_t dot_i8(const int8_t *restrict query, const int8_t *restrict row, ptrdiff_t dimension)
{
    int32_t sum = 0;
    for (ptrdiff_t i = 0; i < dimension; ++i)
        sum += (int16_t)query[i] * (int16_t)row[i];
    return sum;
}

INLINE bool ranks(const hiersrec_rows *which, int64_t row)
{
    uint64_t bit = (uint64_t)row;
    return !which->bitmap || (bool)(which->bitmap[bit / 64] >> (bit % 64) & 1) != which->deny;
}

/* The results so far: a binary heap in the caller's buffers, the worst of them at its root. */
typedef struct {
    float *scores;
    int64_t *rows;
    int64_t count;
    int64_t capacity;
} heap;

INLINE bool worse(float score, int64_t row, float other_score, int64_t other_row)
{
    return score < other_score || (score == other_score && row > other_row);
}

/* Let (score, row) sink from `at`, which is free, to its place among the first `count` entries. */
static void sink(const heap *h, int64_t at, int64_t count, float score, int64_t row)
{
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && worse(h->scores[child + 1], h->rows[child + 1], h->scores[child], h->rows[child]))
            ++child;
        if (!worse(h->scores[child], h->rows[child], score, row))
            break;
        h->scores[at] = h->scores[child];
        h->rows[at] = h->rows[child];
    }
    h->scores[at] = score;
    h->rows[at] = row;
}

/* Add (score, row): it rises from the end to its place. */
static void push(heap *h, float score, int64_t row)
{
    int64_t at = h->count++;
    while (at > 0) {
        int64_t parent = (at - 1) / 2;
        if (!worse(score, row, h->scores[parent], h->rows[parent]))
            break;
        h->scores[at] = h->scores[parent];
        h->rows[at] = h->rows[parent];
        at = parent;
    }
    h->scores[at] = score;
    h->rows[at] = row;
}

/* Keep (score, row) if it is among the best so far. A NaN compares false everywhere, so it never enters. */
INLINE void offer(heap *h, float score, int64_t row)
{
    if (h->count < h->capacity) {
        if (score == score)
            push(h, score, row);
    } else if (worse(h->scores[0], h->rows[0], score, row)) {
        sink(h, 0, h->count, score, row);
    }
}

/* Turn the heap into a list, best first: the worst goes to the end, again and again. */
static int64_t sorted(const heap *h)
{
    for (int64_t last = h->count - 1; last > 0; --last) {
        float score = h->scores[last];
        int64_t row = h->rows[last];
        h->scores[last] = h->scores[0];
        h->rows[last] = h->rows[0];
        sink(h, 0, last, score, row);
    }
    return h->count;
}

EACH_TARGET
int64_t hiersrec_topk_f32(const float *vectors, const float *query, int64_t dimension, const hiersrec_rows *which,
                          int64_t k, float *scores, int64_t *rows)
{
    heap best = {scores, rows, 0, k};
    for (int64_t r = 0; k > 0 && r < which->range_count; ++r) {
        for (int64_t row = which->ranges[2 * r], stop = which->ranges[2 * r + 1]; row < stop; ++row) {
            if (!ranks(which, row))
                continue;
            float score = dot_f32(query, vectors + row * dimension, (ptrdiff_t)dimension);
            if (which->bias)
                score += which->bias[row];
            offer(&best, score, row);
        }
    }
    return sorted(&best);
}

EACH_TARGET
int64_t hiersrec_topk_i8(const int8_t *vectors, const float *scales, const int8_t *query, float query_scale,
                         int64_t dimension, const hiersrec_rows *which, int64_t k, float *scores, int64_t *rows)
{
    heap best = {scores, rows, 0, k};
    for (int64_t r = 0; k > 0 && r < which->range_count; ++r) {
        for (int64_t row = which->ranges[2 * r], stop = which->ranges[2 * r + 1]; row < stop; ++row) {
            if (!ranks(which, row))
                continue;
            float score = (float)dot_i8(query, vectors + row * dimension, (ptrdiff_t)dimension);
            score *= query_scale * scales[row];
            if (which->bias)
                score += which->bias[row];
            offer(&best, score, row);
        }
    }
    return sorted(&best);
}
