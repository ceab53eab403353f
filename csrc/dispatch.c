/* Which instruction set: one probe at the first use, or what the caller names. */
#include "kernels.h"

#include <stddef.h>
#include <string.h>

enum { MOST = 4 };

/* The instruction sets of this processor, best first. */
static int probe(const kernels **found)
{
    int count = 0;
#ifdef HIERSREC_X86
    __builtin_cpu_init(); /* what the operating system does not save counts as missing */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
        if (__builtin_cpu_supports("avx512vnni"))
            found[count++] = &hiersrec_avx512vnni;
        found[count++] = &hiersrec_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
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
