/* The choice of categories: a heap gives up the best one until enough is taken. The contract is in categories.h. */
#include "categories.h"

#include "heap.h"

#include <math.h>
#include <string.h>

/* exp(x) for x <= 0, within a few units in the last place: in a form that compilers turn into vector code. */
INLINE float exponential(float x)
{
    x = x > -87 ? x : -87; /* below, 0 for all that a sum can tell */
    float whole = (float)(int32_t)(x * 1.44269504f - 0.5f); /* x / ln 2, rounded */
    float r = x - whole * 0.693359375f + whole * 2.12194440e-4f; /* ln 2 in two parts: |r| <= ln 2 / 2 */
    float p = 1.9875691500e-4f; /* Cephes' polynomial */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    uint32_t bits = (uint32_t)((int32_t)whole + 127) << 23; /* 2 to the power of `whole` */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* In several lanes: one would wait for its last result at every step. A NaN is larger than nothing. */
static float largest_of(const float *values, int64_t count)
{
    float lane[LANES];
    for (int j = 0; j < LANES; ++j)
        lane[j] = -INFINITY;
    for (int64_t i = 0; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; ++j)
            lane[j] = values[i + j] > lane[j] ? values[i + j] : lane[j];
    for (int64_t i = count / LANES * LANES; i < count; ++i)
        lane[0] = values[i] > lane[0] ? values[i] : lane[0];
    for (int j = 1; j < LANES; ++j)
        lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    return lane[0];
}

static double sum_of(const float *values, int64_t count)
{
    double lane[LANES] = {0};
    for (int64_t i = 0; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; ++j)
            lane[j] += values[i + j];
    for (int64_t i = count / LANES * LANES; i < count; ++i)
        lane[0] += values[i];
    for (int j = 1; j < LANES; ++j)
        lane[0] += lane[j];
    return lane[0];
}

/* Sums over categories; unsigned, so that ranges which are none can do no more than wrap around. */
typedef struct {
    uint64_t rows, eligible;
    double odds;
} holding;

INLINE void add_to(holding *held, int64_t category, const int64_t *ranges, const int64_t *eligible_in, const float *odds)
{
    uint64_t rows = (uint64_t)ranges[2 * category + 1] - (uint64_t)ranges[2 * category];
    held->rows += rows;
    held->eligible += eligible_in ? (uint64_t)eligible_in[category] : rows;
    held->odds += odds[category];
}

/* A heap of the categories with logits from `least` up to, not including, `above`; all from there on, where that is NaN. Its
   root is the best one: the root of a heap is its worst entry, and here all signs are turned. */
static void fill(heap *best, const float *logits, int64_t categories, float least, float above)
{
    const bool last = least == -INFINITY; /* all that are left, a NaN too */
    best->count = 0;
    for (int64_t c = 0; c < categories; ++c) {
        best->rows[best->count] = c;
        best->count += (last | (logits[c] >= least)) & !(logits[c] >= above);
    }
    for (int64_t i = 0; i < best->count; ++i) {
        float logit = logits[best->rows[i]];
        best->scores[i] = logit == logit ? -logit : INFINITY;
        best->rows[i] = -best->rows[i];
    }
    make_heap(best);
}

int64_t hiersrec_choose(const float *logits, const int64_t *ranges, const int64_t *eligible_in, int64_t categories,
                        const int64_t *first, int64_t first_count, const uint8_t *is_first, int64_t rows,
                        int64_t eligible, double top_p, int64_t ordered, int64_t *order, int64_t *chosen, float *odds, double *total,
                        float *heap_scores, int64_t *heap_rows)
{
    float largest = largest_of(logits, categories);
    for (int64_t c = 0; c < categories; ++c)
        odds[c] = exponential(logits[c] - largest);
    double sum = sum_of(odds, categories);
    *total = sum;

    /* Few categories are usually enough, so they enter the heap band by band of their logits, those near the top first. */
    heap best = {heap_scores, heap_rows, 0};
    float least = NAN, depth = 3;
    int64_t listed = 0, taken = 0;
    holding held = {0, 0, 0};
    bool enough = false;
    while (listed < categories && (!enough || listed < ordered)) {
        int64_t category;
        if (listed < first_count) {
            category = first[listed];
        } else {
            for (; best.count == 0; depth *= 2) { /* the last band has all that are left */
                float above = least;
                least = depth < 100 ? largest - depth : -INFINITY;
                fill(&best, logits, categories, least, above);
            }
            category = -heap_rows[0];
            if (--best.count)
                sink(&best, 0, best.count, heap_scores[best.count], heap_rows[best.count]);
            if (is_first && is_first[category])
                continue;
        }
        order[listed++] = category;
        if (enough)
            continue;
        chosen[2 * taken] = ranges[2 * category];
        chosen[2 * taken + 1] = ranges[2 * category + 1];
        ++taken;
        add_to(&held, category, ranges, eligible_in, odds);
        enough = listed >= first_count && (int64_t)held.rows >= rows && (int64_t)held.eligible >= eligible && top_p < 1 &&
                 held.odds >= top_p * sum;
    }
    return taken;
}
