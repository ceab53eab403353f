/* What each instruction set implements, and how one is chosen. Internal to csrc. */
#ifndef HIERSREC_KERNELS_H
#define HIERSREC_KERNELS_H

#include "topk.h"

/* The order of the float32 sum must not depend on the compiler: no fused multiply-add. GCC has no pragma for it and
   takes -ffp-contract=off from the build. */
#if defined(__clang__) || defined(_MSC_VER)
#pragma STDC FP_CONTRACT OFF
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

/* A stage of the scan of blocks for one query. */
typedef struct {
    const uint8_t *codes; /* [blocks, groups, 64] */
    int64_t groups;
    const query_group *query; /* [groups] */
    int32_t correction;       /* -128 times the sum of the query's codes: undoes that stored codes are 128 too high */
    /* upper bound = scale * (step * dot + slack) + tiny + reach * tail + bias */
    float step, slack, tiny, reach;
    const float *scales; /* [blocks * 16] */
    const float *tails;  /* [blocks * 16], or NULL: none at the last stage */
    const float *bias;   /* [blocks * 16], or NULL */
} stage;

/* The blocks that a stage works on. */
typedef struct {
    uint32_t *blocks;
    uint16_t *lanes; /* bit j: row j of the block may rank */
    int32_t *dots;   /* [count, 16], aligned to 64: the sums so far */
    int64_t count;
    bool fetch; /* the codes are not yet in the cache: fetch ahead */
} block_list;

typedef struct {
    const char *name;
    /* Dot products of `count` rows, one after the other, in the order of topk.h. */
    void (*dots_f32)(const float *rows, const float *query, int64_t dimension, int64_t count, float *dots);
    void (*dots_f16)(const uint16_t *rows, const float *query, int64_t dimension, int64_t count, float *dots);
    /* Add the dot products of the stage's codes to the dots of every block; `first`: they start at 0. */
    void (*add)(const stage *s, bool first, block_list *list);
    /* The same; then drop the lanes whose upper bound is below the threshold, and the blocks that are left without
       lanes. A bound that is NaN is not below. */
    void (*add_and_prune)(const stage *s, bool first, float threshold, block_list *list);
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

INLINE const uint8_t *codes_of(const stage *s, uint32_t block)
{
    return s->codes + block * s->groups * GROUP_BYTES;
}

/* Before `groups` groups, from `group` on, of the blocks from `at` on are read: fetch those of the block some places on,
   and at first those of all before it. A list may have gaps, which a processor cannot foresee; without gaps, too, its own
   prefetching was measured to be slower. */
INLINE void prefetch_ahead(const stage *s, const uint32_t *blocks, int64_t at, int64_t count, int64_t group,
                           int64_t groups)
{
    enum { AHEAD = 12 };
    int64_t last = at + AHEAD < count ? at + AHEAD : count - 1;
    for (int64_t block = at ? at + AHEAD : 1; block <= last; ++block) {
        const uint8_t *codes = codes_of(s, blocks[block]) + group * GROUP_BYTES;
        for (int64_t g = 0; g < groups; ++g)
            prefetch(codes + g * GROUP_BYTES);
    }
}

#endif
