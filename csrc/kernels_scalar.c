/* The definition of every kernel, in plain C. */
#include "kernels.h"

#include <string.h>

/* IEEE half to single precision, which is exact. */
INLINE float from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023, bits;
    if (exponent == 31) /* infinity, NaN */
        bits = sign | 0x7f800000u | fraction << 13;
    else if (exponent)
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    else { /* zero, subnormal: fraction * 2^-24 */
        float value = (float)fraction * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    float single;
    memcpy(&single, &bits, sizeof single);
    return single;
}

INLINE float fold(float *lane)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; ++j)
            lane[j] += lane[j + half];
    return lane[0];
}

static void dots_f32(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        float lane[LANES] = {0};
        for (int64_t i = 0; i < dimension; ++i)
            lane[i % LANES] += query[i] * rows[i];
        dots[r] = fold(lane);
    }
}

static void dots_f16(const uint16_t *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        float lane[LANES] = {0};
        for (int64_t i = 0; i < dimension; ++i)
            lane[i % LANES] += query[i] * from_half(rows[i]);
        dots[r] = fold(lane);
    }
}

static void add(const stage *s, bool first, block_list *list)
{
    for (int64_t i = 0; i < list->count; ++i) {
        const uint8_t *codes = codes_of(s, list->blocks[i]);
        int32_t *dots = list->dots + LANES * i;
        for (int j = 0; j < LANES; ++j) {
            int32_t sum = first ? 0 : dots[j];
            for (int64_t g = 0; g < s->groups; ++g)
                for (int at = 0; at < 4; ++at)
                    sum += s->query[g].codes[at] * (codes[GROUP_BYTES * g + 4 * j + at] - 128);
            dots[j] = sum;
        }
    }
}

static void add_and_prune(const stage *s, bool first, float threshold, block_list *list)
{
    add(s, first, list);
    int64_t kept = 0;
    for (int64_t i = 0; i < list->count; ++i) {
        int64_t row = (int64_t)list->blocks[i] * LANES;
        unsigned lanes = 0;
        for (int j = 0; j < LANES; ++j, ++row) {
            float upper = s->scales[row] * (s->step * (float)list->dots[LANES * i + j] + s->slack) + s->tiny;
            if (s->tails)
                upper += s->reach * s->tails[row];
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

const kernels hiersrec_scalar = {"scalar", dots_f32, dots_f16, add, add_and_prune};
