/* NEON, as every 64-bit ARM has it: a block of 16 rows is four registers of sums. */
#include "kernels.h"

#ifdef HIERSREC_NEON
#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

typedef struct {
    float32x4_t part[4];
} lanes16;

INLINE float fold(lanes16 l)
{
    float32x4_t four = vaddq_f32(vaddq_f32(l.part[0], l.part[2]), vaddq_f32(l.part[1], l.part[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

INLINE float rest_of(lanes16 l, const float *query, const float *row, int64_t rest)
{
    float lane[LANES];
    for (int p = 0; p < 4; ++p)
        vst1q_f32(lane + 4 * p, l.part[p]);
    for (int64_t j = 0; j < rest; ++j)
        lane[j] += query[j] * row[j];
    for (int p = 0; p < 4; ++p)
        l.part[p] = vld1q_f32(lane + 4 * p);
    return fold(l);
}

static void dot_products(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        lanes16 l = {{vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)}};
        int64_t i = 0;
        for (; i + LANES <= dimension; i += LANES)
            for (int p = 0; p < 4; ++p)
                l.part[p] = vaddq_f32(l.part[p], vmulq_f32(vld1q_f32(query + i + 4 * p), vld1q_f32(rows + i + 4 * p)));
        dots[r] = i < dimension ? rest_of(l, query + i, rows + i, dimension - i) : fold(l);
    }
}

INLINE int16x8_t spread(const int16_t *two)
{
    int32_t bits;
    memcpy(&bits, two, sizeof bits);
    return vreinterpretq_s16_s32(vdupq_n_s32(bits));
}

/* Products of 16-bit codes, pairs of them summed: one 32-bit sum for each of four rows. */
INLINE int32x4_t multiply(int32x4_t sum, int16x8_t rows, int16x8_t query)
{
    int32x4_t low = vmull_s16(vget_low_s16(rows), vget_low_s16(query));
    int32x4_t high = vmull_s16(vget_high_s16(rows), vget_high_s16(query));
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

/* Four bfloat16: each is the leading half of a float32. */
INLINE float32x4_t bfloats(const uint16_t *at)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(at), 16));
}

INLINE void add_pass(const pass *s, bool first, const bool prune, float threshold, block_list *list)
{
    static const uint32_t bits[4] = {1, 2, 4, 8};
    int64_t kept = 0, count = list->count;
    for (int64_t i = 0; i < count; ++i) {
        if (list->fetch)
            prefetch_ahead(s, list->blocks, i, count, 0, s->block_bytes);
        const uint8_t *codes = codes_of(s, list->blocks[i]);
        int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        for (int64_t g = 0; g < s->groups; ++g) {
            const uint8_t *at = codes + (s->halves ? g / 2 : g) * GROUP_BYTES;
            int16x8_t q_even = spread(s->query[g].even), q_odd = spread(s->query[g].odd);
            for (int p = 0; p < 4; ++p) {
                uint8x16_t bytes = vld1q_u8(at + 16 * p);
                if (s->halves)
                    bytes = g % 2 ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15));
                uint16x8_t rows = vreinterpretq_u16_u8(bytes);
                uint16x8_t even = vandq_u16(rows, vdupq_n_u16(0xff)), odd = vshrq_n_u16(rows, 8);
                sum[p] = multiply(sum[p], vreinterpretq_s16_u16(even), q_even);
                sum[p] = multiply(sum[p], vreinterpretq_s16_u16(odd), q_odd);
            }
        }
        for (int p = 0; p < 4; ++p) {
            sum[p] = vaddq_s32(vshlq_s32(sum[p], vdupq_n_s32(s->shift)), vdupq_n_s32(s->correction));
            if (!first)
                sum[p] = vaddq_s32(sum[p], vld1q_s32(list->dots + LANES * i + 4 * p));
        }
        if (prune) {
            int64_t row = (int64_t)list->blocks[i] * LANES;
            unsigned lanes = 0;
            for (int p = 0; p < 4; ++p) {
                float32x4_t upper = vfmaq_f32(vdupq_n_f32(s->slack), vcvtq_f32_s32(sum[p]), vdupq_n_f32(s->step));
                upper = vfmaq_f32(vdupq_n_f32(s->tiny), upper, bfloats(s->scales + row + 4 * p));
                if (s->suffix_norms)
                    upper = vfmaq_f32(upper, vdupq_n_f32(s->reach), bfloats(s->suffix_norms + row + 4 * p));
                if (s->bias)
                    upper = vaddq_f32(upper, vld1q_f32(s->bias + row + 4 * p));
                uint32x4_t below = vcltq_f32(upper, vdupq_n_f32(threshold)); /* false for NaN */
                lanes |= vaddvq_u32(vbicq_u32(vld1q_u32(bits), below)) << (4 * p);
            }
            lanes &= list->lanes[i];
            if (!lanes)
                continue;
            list->blocks[kept] = list->blocks[i];
            list->lanes[kept] = (uint16_t)lanes;
        }
        for (int p = 0; p < 4; ++p)
            vst1q_s32(list->dots + LANES * kept + 4 * p, sum[p]);
        ++kept;
    }
    list->count = kept;
}

static void add(const pass *s, bool first, block_list *list)
{
    add_pass(s, first, false, 0, list);
}

static void add_and_prune(const pass *s, bool first, float threshold, block_list *list)
{
    add_pass(s, first, true, threshold, list);
}

#define ATTRIBUTES
#include "score_offsets.inc"

const kernels hiersrec_neon = {"neon", dot_products, add, NULL, add_and_prune, NULL, score_offsets};
#endif
