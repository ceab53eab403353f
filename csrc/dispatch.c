/* Which instruction set: one probe at the first use, or what the caller names. */
#include "kernels.h"

#include <stddef.h>
#include <string.h>
#ifdef HIERSREC_X86
#include <cpuid.h>
#endif

enum { MOST = 4 };

#ifdef HIERSREC_X86
/* The processor is asked, not the compiler's __builtin_cpu_supports: that of zig answers no to everything. Bits of CPUID
   are those of Intel's manual, volume 2, and AMD's, volume 3. */
enum { LEAF_1_ECX_FMA = 1 << 12, LEAF_1_ECX_OSXSAVE = 1 << 27, LEAF_1_ECX_AVX = 1 << 28 };
enum { LEAF_7_EBX_AVX2 = 1 << 5, LEAF_7_ECX_VNNI = 1 << 11 };
static const unsigned LEAF_7_EBX_AVX512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
enum { SAVES_YMM = 0x6, SAVES_ZMM = 0xe6 }; /* bits of XCR0 */

/* Whether the operating system saves these registers: what it does not save counts as missing. */
static bool is_saved(unsigned registers)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & LEAF_1_ECX_OSXSAVE))
        return false;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* _xgetbv would need a function with target("xsave") */
    return (low & registers) == registers;
}

static bool has_avx2(void)
{
    unsigned a, b, c, d, needed = LEAF_1_ECX_FMA | LEAF_1_ECX_AVX;
    return is_saved(SAVES_YMM) && __get_cpuid(1, &a, &b, &c, &d) && (c & needed) == needed &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & LEAF_7_EBX_AVX2;
}

static bool has_avx512(bool *vnni)
{
    unsigned a, b, c, d;
    if (!is_saved(SAVES_ZMM) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & LEAF_7_EBX_AVX512) != LEAF_7_EBX_AVX512)
        return false;
    *vnni = c & LEAF_7_ECX_VNNI;
    return true;
}
#endif

/* The instruction sets of this processor, best first. */
static int probe(const kernels **found)
{
    int count = 0;
#ifdef HIERSREC_X86
    bool avx512vnni;
    if (has_avx512(&avx512vnni)) {
        if (avx512vnni)
            found[count++] = &hiersrec_avx512vnni;
        found[count++] = &hiersrec_avx512;
    }
    if (has_avx2())
        found[count++] = &hiersrec_avx2;
#endif
#ifdef HIERSREC_NEON
    found[count++] = &hiersrec_neon;
#endif
    found[count++] = &hiersrec_scalar;
    return count;
}

static const kernels *_Atomic chosen;

const kernels *hiersrec_kernels(void)
{
    if (!chosen) { /* two threads that come here at once find the same */
        const kernels *found[MOST];
        probe(found);
        chosen = found[0];
    }
    return chosen;
}

const char *hiersrec_isa(void)
{
    return hiersrec_kernels()->name;
}

const char *hiersrec_isa_at(int index)
{
    const kernels *found[MOST];
    int count = probe(found);
    return 0 <= index && index < count ? found[index]->name : NULL;
}

bool hiersrec_use_isa(const char *name)
{
    const kernels *found[MOST];
    int count = probe(found);
    for (int i = 0; i < count; ++i) {
        if (strcmp(found[i]->name, name) == 0) {
            chosen = found[i];
            return true;
        }
    }
    return false;
}
