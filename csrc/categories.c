/* The choice of categories: a heap gives up the best one until enough is taken. The contract is in categories.h. */
#include "categories.h"

#include "heap.h"

#include <math.h>

int64_t hiersrec_choose(const float *logits, const int64_t *ranges, const int64_t *eligible_in, int64_t categories,
                        const int64_t *first, int64_t first_count, int64_t rows, int64_t eligible, double mass,
                        int64_t ordered, int64_t *order, int64_t *chosen, float *odds, double *total, float *workspace)
{
    float largest = logits[0];
    for (int64_t c = 1; c < categories; ++c)
        largest = logits[c] > largest ? logits[c] : largest;
    double sum = 0;
    for (int64_t c = 0; c < categories; ++c) {
        odds[c] = expf(logits[c] - largest);
        sum += odds[c];
    }
    *total = sum;

    /* The root of a heap is its worst entry; turned round, by sign, it is the best category. Those that come first have
       the highest scores there are. The heap lies at the front of `order`, which fills up from the end. */
    heap left = {workspace, order, categories};
    for (int64_t c = 0; c < categories; ++c) {
        left.scores[c] = -logits[c];
        left.rows[c] = -c;
    }
    for (int64_t i = 0; i < first_count; ++i)
        left.scores[first[i]] = -INFINITY;
    /* equal scores go by rows: the earlier of those that come first has to have the larger one */
    for (int64_t i = 0; i < first_count; ++i)
        left.rows[first[i]] = first_count - i;
    make_heap(&left);

    int64_t taken = 0, held = 0, held_eligible = 0;
    double probability = 0;
    bool enough = false;
    for (int64_t at = 0; at < categories && (!enough || at < ordered); ++at) {
        int64_t category = left.rows[0] > 0 ? first[first_count - left.rows[0]] : -left.rows[0];
        int64_t last = --left.count;
        if (last)
            sink(&left, 0, last, left.scores[last], left.rows[last]);
        left.rows[last] = category; /* free now; the order is turned round below */
        if (enough)
            continue;
        const int64_t *range = ranges + 2 * category;
        chosen[2 * taken] = range[0];
        chosen[2 * taken + 1] = range[1];
        ++taken;
        held += range[1] - range[0];
        held_eligible += eligible_in ? eligible_in[category] : range[1] - range[0];
        probability += odds[category];
        enough = held >= rows && held_eligible >= eligible && mass < 1 && probability >= mass * sum;
    }
    for (int64_t low = 0, high = categories - 1; low < high; ++low, --high) {
        int64_t category = order[low];
        order[low] = order[high];
        order[high] = category;
    }
    return taken;
}
