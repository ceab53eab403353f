/* AVX-512, with VNNI and without: a block of 16 rows is one register of sums. */
#include "kernels.h"

#ifdef HIERSREC_X86
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

TARGET INLINE float fold(__m512 lanes)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TARGET static void dots_f32(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots)
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

TARGET static void dots_f16(const uint16_t *rows, const float *query, int64_t dimension, int64_t count, float *dots)
{
    __mmask16 rest = (__mmask16)((1u << dimension % LANES) - 1);
    for (int64_t r = 0; r < count; ++r, rows += dimension) {
        __m512 lanes = _mm512_setzero_ps();
        int64_t i = 0;
        for (; i + LANES <= dimension; i += LANES) {
            __m512 row = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(rows + i)));
            lanes = _mm512_add_ps(lanes, _mm512_mul_ps(_mm512_loadu_ps(query + i), row));
        }
        if (rest) {
            __m512 row = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(rest, rows + i));
            __m512 product = _mm512_mul_ps(_mm512_maskz_loadu_ps(rest, query + i), row);
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

/* The lanes of a block whose upper bound is not below the threshold. */
TARGET INLINE __mmask16 passing(const stage s, __m512 threshold, uint16_t lanes, __m512i dots, int64_t row)
{
    __m512 upper = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(s.step), _mm512_set1_ps(s.slack));
    upper = _mm512_fmadd_ps(upper, _mm512_loadu_ps(s.scales + row), _mm512_set1_ps(s.tiny));
    if (s.tails)
        upper = _mm512_fmadd_ps(_mm512_set1_ps(s.reach), _mm512_loadu_ps(s.tails + row), upper);
    if (s.bias)
        upper = _mm512_add_ps(upper, _mm512_loadu_ps(s.bias + row));
    return _mm512_mask_cmp_ps_mask(lanes, upper, threshold, _CMP_NLT_UQ);
}

/* With VNNI one instruction multiplies the unsigned bytes of 16 rows with the four signed ones of the query, and sums. */
#define NAME(function) function##_vnni
#define ATTRIBUTES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define QUERY __m512i
#define SPREAD(group) spread((group).codes)
#define MULTIPLY(sum, rows, query) _mm512_dpbusd_epi32(sum, rows, query)
#include "avx512_stage.inc"

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
#include "avx512_stage.inc"

const kernels hiersrec_avx512 = {"avx512", dots_f32, dots_f16, add_bw, add_and_prune_bw};
const kernels hiersrec_avx512vnni = {"avx512vnni", dots_f32, dots_f16, add_vnni, add_and_prune_vnni};
#endif
