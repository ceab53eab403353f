/* AVX2: a block of 16 rows is two registers of sums. */
#include "kernels.h"

#ifdef HIERSREC_X86
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma")))

TARGET INLINE float fold(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The rest of a row, of fewer than 16 dimensions, added to the lanes. */
TARGET INLINE void add_rest(__m256 *low, __m256 *high, const float *query, const float *row, int64_t rest)
{
    float lane[LANES];
    _mm256_storeu_ps(lane, *low);
    _mm256_storeu_ps(lane + 8, *high);
    for (int64_t j = 0; j < rest; ++j)
        lane[j] += query[j] * row[j];
    *low = _mm256_loadu_ps(lane);
    *high = _mm256_loadu_ps(lane + 8);
}

TARGET static void dot_products(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        __m256 low = _mm256_setzero_ps(), high = low;
        int64_t i = 0;
        for (; i + LANES <= dimension; i += LANES) {
            low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(query + i), _mm256_loadu_ps(rows + i)));
            high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(query + i + 8), _mm256_loadu_ps(rows + i + 8)));
        }
        if (i < dimension)
            add_rest(&low, &high, query + i, rows + i, dimension - i);
        dots[r] = fold(low, high);
    }
}

TARGET INLINE __m256i spread(const int16_t *two)
{
    int32_t bits;
    memcpy(&bits, two, sizeof bits);
    return _mm256_set1_epi32(bits);
}

/* Stored codes are unsigned bytes; their even and odd ones, widened to 16 bits by a mask and a shift, are multiplied
   with the query's 16-bit codes and summed in pairs: no product can overflow. */
TARGET INLINE __m256i multiply(__m256i sum, __m256i rows, __m256i q_even, __m256i q_odd)
{
    __m256i even = _mm256_and_si256(rows, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(rows, 8);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, q_even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, q_odd));
}

/* Eight bfloat16: each is the leading half of a float32. */
TARGET INLINE __m256 bfloats(const uint16_t *at)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)at)), 16));
}

/* Bit j: row + j may still rank. */
TARGET INLINE unsigned passing(const pass *s, __m256 threshold, __m256i dots, int64_t row)
{
    __m256 upper = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), _mm256_set1_ps(s->step), _mm256_set1_ps(s->slack));
    upper = _mm256_fmadd_ps(upper, bfloats(s->scales + row), _mm256_set1_ps(s->tiny));
    if (s->suffix_norms)
        upper = _mm256_fmadd_ps(_mm256_set1_ps(s->reach), bfloats(s->suffix_norms + row), upper);
    if (s->bias)
        upper = _mm256_add_ps(upper, _mm256_loadu_ps(s->bias + row));
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(upper, threshold, _CMP_NLT_UQ));
}

TARGET INLINE void add_pass(const pass *s, bool first, const bool prune, float threshold, block_list *list)
{
    const __m256 least = _mm256_set1_ps(threshold);
    const __m128i shift = _mm_cvtsi32_si128(s->shift);
    const __m256i start = _mm256_set1_epi32(s->correction), low_half = _mm256_set1_epi8(15);
    int64_t kept = 0, count = list->count;
    for (int64_t i = 0; i < count; ++i) {
        if (list->fetch)
            prefetch_ahead(s, list->blocks, i, count, 0, s->block_bytes);
        const uint8_t *codes = codes_of(s, list->blocks[i]);
        __m256i low = _mm256_setzero_si256(), high = low;
        for (int64_t g = 0; g < s->groups; ++g) {
            const uint8_t *at = codes + (s->halves ? g / 2 : g) * GROUP_BYTES;
            __m256i rows_low = _mm256_loadu_si256((const void *)at), rows_high = _mm256_loadu_si256((const void *)(at + 32));
            if (s->halves) {
                rows_low = _mm256_and_si256(g % 2 ? _mm256_srli_epi16(rows_low, 4) : rows_low, low_half);
                rows_high = _mm256_and_si256(g % 2 ? _mm256_srli_epi16(rows_high, 4) : rows_high, low_half);
            }
            __m256i q_even = spread(s->query[g].even), q_odd = spread(s->query[g].odd);
            low = multiply(low, rows_low, q_even, q_odd);
            high = multiply(high, rows_high, q_even, q_odd);
        }
        low = _mm256_add_epi32(_mm256_sll_epi32(low, shift), start);
        high = _mm256_add_epi32(_mm256_sll_epi32(high, shift), start);
        if (!first) {
            low = _mm256_add_epi32(low, _mm256_load_si256((const void *)(list->dots + LANES * i)));
            high = _mm256_add_epi32(high, _mm256_load_si256((const void *)(list->dots + LANES * i + 8)));
        }
        if (prune) {
            int64_t row = (int64_t)list->blocks[i] * LANES;
            unsigned lanes = passing(s, least, low, row) | passing(s, least, high, row + 8) << 8;
            lanes &= list->lanes[i];
            if (!lanes)
                continue;
            list->blocks[kept] = list->blocks[i];
            list->lanes[kept] = (uint16_t)lanes;
        }
        _mm256_store_si256((void *)(list->dots + LANES * kept), low);
        _mm256_store_si256((void *)(list->dots + LANES * kept + 8), high);
        ++kept;
    }
    list->count = kept;
}

TARGET static void add(const pass *s, bool first, block_list *list)
{
    add_pass(s, first, false, 0, list);
}

TARGET static void add_and_prune(const pass *s, bool first, float threshold, block_list *list)
{
    add_pass(s, first, true, threshold, list);
}

#define ATTRIBUTES TARGET
#include "score_offsets.inc"

const kernels hiersrec_avx2 = {"avx2", dot_products, add, NULL, add_and_prune, NULL, score_offsets};
#endif
