/* The functions that each instruction set implements, and how one is chosen. Internal to csrc and its tests. */
#ifndef HIERSREC_KERNELS_H
#define HIERSREC_KERNELS_H

#include "covisitation.h"
#include "topk.h"

#include <string.h>

/* The order of the float32 sum must not depend on the compiler: no fused multiply-add. GCC has no pragma for it and
   takes -ffp-contract=off from the build. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define HIERSREC_X86 1
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define HIERSREC_NEON 1
#endif

enum { LANES = HIERSREC_BLOCK, GROUP_BYTES = 4 * LANES };

/* int8 codes of four dimensions of a query, in the two forms that the instruction sets multiply with. */
typedef struct {
    int8_t codes[4];
    int16_t even[2], odd[2]; /* dimensions 0 and 2, 1 and 3 */
} query_group;

/* A pass over blocks for one query: a stage, or the leading or trailing bits of one. */
typedef struct {
    const uint8_t *codes;  /* [blocks, block_bytes] */
    int64_t block_bytes;
    bool halves;           /* a byte holds 4 bits of two codes */
    int shift;             /* stored codes are to be multiplied by 2 to the power of this */
    int64_t groups;        /* even, where bytes hold halves */
    const query_group *query; /* [groups] */
    int32_t correction;    /* undoes that stored codes are too high by a constant */
    /* upper bound = scale * (step * dot + slack) + tiny + reach * suffix_norm + bias */
    float step, slack, tiny, reach;
    const uint16_t *scales; /* [blocks * 16] bfloat16 */
    const uint16_t *suffix_norms; /* [blocks * 16] bfloat16, or NULL: no dimension is left */
    const float *bias;      /* [blocks * 16], or NULL */
} pass;

/* The blocks that a pass works on. */
typedef struct {
    uint32_t *blocks;
    uint16_t *lanes; /* bit j: row j of the block may rank */
    int32_t *dots;   /* [count, 16], aligned to 64: the sums so far */
    int64_t count;
    bool fetch; /* the codes are not yet in the cache: fetch ahead */
} block_list;

/* One of several queries that go over the same blocks in their first pass. */
typedef struct {
    const query_group *query;
    /* upper bound = scale * (step * sum + slack) + tiny + reach * suffix_norm + bias, of the sum of stored codes */
    float step, slack, reach, threshold;
    int32_t correction;
    block_list kept; /* [out] the blocks that may hold a result, with all dots as after the pass */
} shared_query;

enum { SHARED_GROUPS = 8 };

typedef struct {
    const char *name;
    /* Dot products of `count` rows, one after the other, in the order of topk.h. */
    void (*dot_products)(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots);
    /* Add the dot products of the pass's codes to the dots of every block; `first`: they start at 0. */
    void (*add)(const pass *s, bool first, block_list *list);
    /* Several passes in one, the first of which starts the dots. Each block is read at several places at once, which is faster
       where nothing is pruned between. NULL where there is no such kernel. */
    void (*add_many)(const pass *passes, int64_t count, block_list *list);
    /* add, then drop the lanes whose upper bound is below the threshold, and the blocks that are left without
       lanes. A bound that is NaN is not below. */
    void (*add_and_prune)(const pass *s, bool first, float threshold, block_list *list);
    /* add_and_prune for several queries at once: a first pass by halves over SHARED_GROUPS groups, all rows of `count` blocks
       from `block` on. A block is read and unpacked once for all. NULL where there is no such kernel. */
    void (*prune_shared)(const pass *s, uint32_t block, int64_t count, shared_query *queries, int64_t query_count);
    /* The score offsets of 16 covisited rows, each from the features of its own, at first with counts in place of their logs where
       these are sums over clicks; `shared`: what the features of the session have put into each unit. */
    void (*score_offsets)(const hiersrec_covisitation *scorer, const float *shared, float (*features)[LANES],
                          float *offsets);
} kernels;

extern const kernels hiersrec_scalar;
#ifdef HIERSREC_X86
extern const kernels hiersrec_avx2, hiersrec_avx512, hiersrec_avx512vnni;
#endif
#ifdef HIERSREC_NEON
extern const kernels hiersrec_neon;
#endif

/* The one in use. */
const kernels *hiersrec_kernels(void);

INLINE void prefetch(const void *at)
{
#if defined(__GNUC__)
    __builtin_prefetch(at, 0, 3);
#else
    (void)at;
#endif
}

/* Fetch the vector and the bias of a row. */
INLINE void prefetch_row(const hiersrec_table *t, int64_t row)
{
    const char *vector = (const char *)(t->vectors + row * t->dimension);
    for (int64_t at = 0; at < t->dimension * 4; at += 64)
        prefetch(vector + at);
    if (t->bias)
        prefetch(t->bias + row);
}

/* A bfloat16 as the float32 that it begins. */
INLINE float from_bfloat(uint16_t leading)
{
    uint32_t bits = (uint32_t)leading << 16;
    float single;
    memcpy(&single, &bits, sizeof single);
    return single;
}

/* The features that a covisited row has of its own: 0 to 12 and 15. */
enum { HIERSREC_ROW_FEATURES = 14 };

INLINE int hiersrec_row_feature(int at)
{
    return at < 13 ? at : 15;
}

/*
 * log(1 + count) for count >= 0. 1 + count = 2^e m with m in [sqrt(1/2), sqrt(2)), and log m = 2 (s + s^3 / 3 + s^5 / 5 ...)
 * with s = (m - 1) / (m + 1): all by operations that IEEE 754 rounds correctly, so that NumPy can give the same bits, and without
 * a branch, so that compilers turn a loop of it into vector code.
 */
INLINE float log_of(float count)
{
    double m = 1 + (double)count;
    uint64_t bits;
    memcpy(&bits, &m, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52;
    memcpy(&m, &bits, sizeof m);
    bool high = m >= 1.4142135623730951;
    m = high ? m * 0.5 : m;
    exponent += high;
    double s = (m - 1) / (m + 1), z = s * s, series = 1.0 / 15;
    series = series * z + 1.0 / 13;
    series = series * z + 1.0 / 11;
    series = series * z + 1.0 / 9;
    series = series * z + 1.0 / 7;
    series = series * z + 1.0 / 5;
    series = series * z + 1.0 / 3;
    series = series * z + 1;
    return (float)(exponent * 0.6931471805599453 + 2 * s * series);
}

INLINE void log_counts(float *counts)
{
    for (int j = 0; j < LANES; ++j)
        counts[j] = log_of(counts[j]);
}

INLINE const uint8_t *codes_of(const pass *s, uint32_t block)
{
    return s->codes + block * s->block_bytes;
}

/* Before `bytes` bytes, from `offset` on, of the blocks from `at` on are read: fetch those of the block some places on, and
   at first those of all before it. A list may have gaps, which a processor cannot foresee; without gaps, too, its own
   prefetching was measured to be slower. */
INLINE void prefetch_ahead(const pass *s, const uint32_t *blocks, int64_t at, int64_t count, int64_t offset, int64_t bytes)
{
    enum { AHEAD = 16 };
    int64_t last = at + AHEAD < count ? at + AHEAD : count - 1;
    for (int64_t block = at ? at + AHEAD : 1; block <= last; ++block) {
        const uint8_t *codes = codes_of(s, blocks[block]) + offset;
        for (int64_t i = 0; i < bytes; i += 64)
            prefetch(codes + i);
    }
}

#endif
