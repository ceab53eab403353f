/* AVX-512, with VNNI and without: a block of 16 rows is one register of sums. */
#include "kernels.h"

#ifdef HIERSREC_X86
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

TARGET INLINE float fold(__m512 lanes)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TARGET static void dot_products(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    __mmask16 rest = (__mmask16)((1u << dimension % LANES) - 1);
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        __m512 lanes = _mm512_setzero_ps();
        int64_t i = 0;
        for (; i + LANES <= dimension; i += LANES)
            lanes = _mm512_add_ps(lanes, _mm512_mul_ps(_mm512_loadu_ps(query + i), _mm512_loadu_ps(rows + i)));
        if (rest) {
            __m512 product = _mm512_mul_ps(_mm512_maskz_loadu_ps(rest, query + i), _mm512_maskz_loadu_ps(rest, rows + i));
            lanes = _mm512_mask_add_ps(lanes, rest, lanes, product);
        }
        dots[r] = fold(lanes);
    }
}

TARGET INLINE __m512i spread(const void *four_bytes)
{
    int32_t bits;
    memcpy(&bits, four_bytes, sizeof bits);
    return _mm512_set1_epi32(bits);
}

/* Sixteen bfloat16: each is the leading half of a float32. */
TARGET INLINE __m512 bfloats(const uint16_t *at)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16));
}

/* The lanes of a block whose upper bound is not below the threshold. */
TARGET INLINE __mmask16 passing(const pass s, __m512 threshold, uint16_t lanes, __m512i dots, int64_t row)
{
    __m512 upper = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(s.step), _mm512_set1_ps(s.slack));
    upper = _mm512_fmadd_ps(upper, bfloats(s.scales + row), _mm512_set1_ps(s.tiny));
    if (s.suffix_norms)
        upper = _mm512_fmadd_ps(_mm512_set1_ps(s.reach), bfloats(s.suffix_norms + row), upper);
    if (s.bias)
        upper = _mm512_add_ps(upper, _mm512_loadu_ps(s.bias + row));
    return _mm512_mask_cmp_ps_mask(lanes, upper, threshold, _CMP_NLT_UQ);
}

/* With VNNI one instruction multiplies the unsigned bytes of 16 rows with the four signed ones of the query, and sums. */
#define NAME(function) function##_vnni
#define ATTRIBUTES TARGET_VNNI
#define QUERY __m512i
#define SPREAD(group) spread((group).codes)
#define MULTIPLY(sum, rows, query) _mm512_dpbusd_epi32(sum, rows, query)
#include "avx512_pass.inc"

TARGET_VNNI static void add_many(const pass *passes, int64_t count, block_list *list)
{
    const __m512i low_half = _mm512_set1_epi8(15);
    int32_t correction = 0;
    for (int64_t at = 0; at < count; ++at)
        correction += passes[at].correction;
    for (int64_t i = 0; i < list->count; ++i) {
        __m512i dots = _mm512_set1_epi32(correction);
        for (int64_t at = 0; at < count; ++at) {
            const pass *s = &passes[at];
            const uint8_t *codes = codes_of(s, list->blocks[i]);
            if (list->fetch)
                prefetch_ahead(s, list->blocks, i, list->count, 0, s->block_bytes);
            __m512i even = _mm512_setzero_si512(), odd = even;
            if (s->halves) {
                for (int64_t g = 0; g < s->groups; g += 2) {
                    __m512i two = _mm512_loadu_si512(codes + g / 2 * GROUP_BYTES);
                    __m512i high = _mm512_and_si512(_mm512_srli_epi16(two, 4), low_half);
                    even = _mm512_dpbusd_epi32(even, _mm512_and_si512(two, low_half), spread(s->query[g].codes));
                    odd = _mm512_dpbusd_epi32(odd, high, spread(s->query[g + 1].codes));
                }
            } else {
                for (int64_t g = 0; g + 2 <= s->groups; g += 2) {
                    __m512i rows = _mm512_loadu_si512(codes + g * GROUP_BYTES);
                    even = _mm512_dpbusd_epi32(even, rows, spread(s->query[g].codes));
                    rows = _mm512_loadu_si512(codes + (g + 1) * GROUP_BYTES);
                    odd = _mm512_dpbusd_epi32(odd, rows, spread(s->query[g + 1].codes));
                }
            }
            __m512i sum = _mm512_add_epi32(even, odd);
            dots = _mm512_add_epi32(dots, s->shift ? _mm512_slli_epi32(sum, 4) : sum);
        }
        _mm512_store_si512(list->dots + LANES * i, dots);
    }
}

/* Two blocks at a time, or the last one: their unpacked codes stay in registers while all queries go over them. */
TARGET_VNNI INLINE void prune_blocks(const pass *s, uint32_t block, const int width, shared_query *queries, int64_t count)
{
    const __m512i low_half = _mm512_set1_epi8(15);
    __m512i rows[2][SHARED_GROUPS];
    __m512 scale[2], suffix_norm[2], bias[2];
    for (int b = 0; b < width; ++b) {
        const uint8_t *codes = codes_of(s, block + (uint32_t)b);
        int64_t row = (int64_t)(block + (uint32_t)b) * LANES;
        for (int g = 0; g < SHARED_GROUPS; g += 2) {
            __m512i two = _mm512_loadu_si512(codes + g / 2 * GROUP_BYTES);
            rows[b][g] = _mm512_and_si512(two, low_half);
            rows[b][g + 1] = _mm512_and_si512(_mm512_srli_epi16(two, 4), low_half);
        }
        scale[b] = bfloats(s->scales + row);
        suffix_norm[b] = s->suffix_norms ? bfloats(s->suffix_norms + row) : _mm512_setzero_ps();
        bias[b] = s->bias ? _mm512_loadu_ps(s->bias + row) : _mm512_setzero_ps();
    }
    const __m512 tiny = _mm512_set1_ps(s->tiny);
    for (int64_t i = 0; i < count; ++i) {
        shared_query *q = &queries[i];
        __m512i sum[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int g = 0; g < SHARED_GROUPS; ++g) {
            __m512i codes = spread(q->query[g].codes);
            for (int b = 0; b < width; ++b)
                sum[b] = _mm512_dpbusd_epi32(sum[b], rows[b][g], codes);
        }
        __mmask16 left[2] = {0, 0};
        const __m512 step = _mm512_set1_ps(q->step), slack = _mm512_set1_ps(q->slack), reach = _mm512_set1_ps(q->reach);
        for (int b = 0; b < width; ++b) {
            __m512 upper = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[b]), step, slack);
            upper = _mm512_fmadd_ps(upper, scale[b], _mm512_fmadd_ps(reach, suffix_norm[b], tiny));
            upper = _mm512_add_ps(upper, bias[b]);
            left[b] = _mm512_cmp_ps_mask(upper, _mm512_set1_ps(q->threshold), _CMP_NLT_UQ);
        }
        if (left[0] | left[1]) {
            for (int b = 0; b < width; ++b) {
                if (!left[b])
                    continue;
                block_list *kept = &q->kept;
                __m512i dots = _mm512_add_epi32(_mm512_slli_epi32(sum[b], 4), _mm512_set1_epi32(q->correction));
                kept->blocks[kept->count] = block + (uint32_t)b;
                kept->lanes[kept->count] = left[b];
                _mm512_store_si512(kept->dots + LANES * kept->count++, dots);
            }
        }
    }
}

TARGET_VNNI static void prune_shared(const pass *s, uint32_t block, int64_t count, shared_query *queries,
                                     int64_t query_count)
{
    for (int64_t at = 0; at < count; ++at) /* all of it, before the first block is waited for */
        for (int64_t i = 0; i < s->block_bytes; i += 64)
            prefetch(codes_of(s, block + (uint32_t)at) + i);
    int64_t at = 0;
    for (; at + 2 <= count; at += 2)
        prune_blocks(s, block + (uint32_t)at, 2, queries, query_count);
    if (at < count)
        prune_blocks(s, block + (uint32_t)at, 1, queries, query_count);
}

/* Without it, even and odd bytes are widened to 16 bits by a mask and a shift: nothing can overflow. */
typedef struct {
    __m512i even, odd;
} query_pair;

TARGET INLINE __m512i multiply_pair(__m512i sum, __m512i rows, query_pair query)
{
    __m512i even = _mm512_and_si512(rows, _mm512_set1_epi16(0xff)), odd = _mm512_srli_epi16(rows, 8);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, query.even));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(odd, query.odd));
}

#define NAME(function) function##_bw
#define ATTRIBUTES TARGET
#define QUERY query_pair
#define SPREAD(group) ((query_pair){spread((group).even), spread((group).odd)})
#define MULTIPLY(sum, rows, query) multiply_pair(sum, rows, query)
#include "avx512_pass.inc"

#define ATTRIBUTES TARGET
#include "score_offsets.inc"

const kernels hiersrec_avx512 = {"avx512", dot_products, add_bw, NULL, add_and_prune_bw, NULL, score_offsets};
const kernels hiersrec_avx512vnni = {"avx512vnni", dot_products, add_vnni, add_many, add_and_prune_vnni, prune_shared,
                                     score_offsets};
#endif
