/* A binary heap of (score, row) in the caller's buffers, the worst at its root. Internal to csrc. */
#ifndef HIERSREC_HEAP_H
#define HIERSREC_HEAP_H

#include "kernels.h"

typedef struct {
    float *scores;
    int64_t *rows;
    int64_t count;
} heap;

INLINE bool worse(float score, int64_t row, float other_score, int64_t other_row)
{
    return score < other_score || (score == other_score && row > other_row);
}

/* Let (score, row) sink from `at`, which is free, to its place among the first `count` entries. */
INLINE void sink(const heap *h, int64_t at, int64_t count, float score, int64_t row)
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
INLINE void push(heap *h, float score, int64_t row)
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

/* Keep (score, row) if it is among the `capacity` best so far. A NaN compares false everywhere, so it never enters. */
INLINE void offer(heap *h, int64_t capacity, float score, int64_t row)
{
    if (h->count < capacity) {
        if (score == score)
            push(h, score, row);
    } else if (worse(h->scores[0], h->rows[0], score, row)) {
        sink(h, 0, h->count, score, row);
    }
}

/* Turn a heap into a list, best first: the worst goes to the end, again and again. */
INLINE void sort_best_first(heap *h)
{
    for (int64_t last = h->count - 1; last > 0; --last) {
        float score = h->scores[last];
        int64_t row = h->rows[last];
        h->scores[last] = h->scores[0];
        h->rows[last] = h->rows[0];
        sink(h, 0, last, score, row);
    }
}

INLINE void make_heap(heap *h)
{
    for (int64_t at = h->count / 2 - 1; at >= 0; --at)
        sink(h, at, h->count, h->scores[at], h->rows[at]);
}

#endif
