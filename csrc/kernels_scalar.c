/* The definition of every kernel, in plain C. */
#include "kernels.h"

#include <stddef.h>
#include <string.h>

INLINE float fold(float *lane)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; ++j)
            lane[j] += lane[j + half];
    return lane[0];
}

static void dot_products(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        float lane[LANES] = {0};
        for (int64_t i = 0; i < dimension; ++i)
            lane[i % LANES] += query[i] * rows[i];
        dots[r] = fold(lane);
    }
}

/* The stored code of one dimension of row `row` of a block. */
INLINE int stored(const pass *s, const uint8_t *codes, int64_t group, int row, int at)
{
    if (!s->halves)
        return codes[GROUP_BYTES * group + 4 * row + at];
    uint8_t two = codes[GROUP_BYTES * (group / 2) + 4 * row + at];
    return group % 2 ? two >> 4 : two & 15;
}

static void add(const pass *s, bool first, block_list *list)
{
    for (int64_t i = 0; i < list->count; ++i) {
        const uint8_t *codes = codes_of(s, list->blocks[i]);
        int32_t *dots = list->dots + LANES * i;
        for (int j = 0; j < LANES; ++j) {
            int32_t sum = 0;
            for (int64_t g = 0; g < s->groups; ++g)
                for (int at = 0; at < 4; ++at)
                    sum += s->query[g].codes[at] * stored(s, codes, g, j, at);
            dots[j] = (first ? 0 : dots[j]) + sum * (1 << s->shift) + s->correction;
        }
    }
}

static void add_and_prune(const pass *s, bool first, float threshold, block_list *list)
{
    add(s, first, list);
    int64_t kept = 0;
    for (int64_t i = 0; i < list->count; ++i) {
        int64_t row = (int64_t)list->blocks[i] * LANES;
        unsigned lanes = 0;
        for (int j = 0; j < LANES; ++j, ++row) {
            float upper = s->step * (float)list->dots[LANES * i + j] + s->slack;
            upper = from_bfloat(s->scales[row]) * upper + s->tiny;
            if (s->suffix_norms)
                upper += s->reach * from_bfloat(s->suffix_norms[row]);
            if (s->bias)
                upper += s->bias[row];
            lanes |= (unsigned)!(upper < threshold) << j;
        }
        lanes &= list->lanes[i];
        list->blocks[kept] = list->blocks[i];
        list->lanes[kept] = (uint16_t)lanes;
        memmove(list->dots + LANES * kept, list->dots + LANES * i, LANES * sizeof *list->dots);
        kept += lanes != 0;
    }
    list->count = kept;
}

static void score_offsets(const hiersrec_covisitation *scorer, const float *shared, float (*features)[LANES],
                          float *offsets)
{
    const int64_t hidden = scorer->hidden;
    log_counts(features[HIERSREC_POPULARITIES]);
    log_counts(features[HIERSREC_POPULARITIES + 1]);
    for (int j = 0; j < LANES; ++j) {
        offsets[j] = scorer->weight[hidden];
        for (int64_t unit = 0; unit < hidden; ++unit) {
            float sum = shared[unit];
            for (int feature = 0; feature < HIERSREC_ROW_FEATURES; ++feature)
                sum += features[feature][j] * scorer->hidden_weight[hiersrec_row_feature(feature) * hidden + unit];
            offsets[j] += scorer->weight[unit] * (sum > 0 ? sum : 0);
        }
    }
}

const kernels hiersrec_scalar = {"scalar", dot_products, add, NULL, add_and_prune, NULL, score_offsets};
