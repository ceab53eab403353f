/* Covisited rows are found through a hash table, sorted, and put through the network. The contract is in covisitation.h. */
#include "covisitation.h"

#include "kernels.h"

#include <stddef.h>
#include <string.h>

/* Sums for a covisited row, from which its features are made at the end. */
typedef struct {
    double after, before;
    int32_t row;
    int32_t since; /* clicks since its newest one; -1: the session does not hold it */
    float of_newest[HIERSREC_EDGE_COUNTS];
    float count, follows, precedes;
} covisited_row;

typedef struct {
    covisited_row *rows;
    int64_t count;
    int32_t *slots; /* number of a row, -1 where free */
    int bits;       /* slots are 2 to the power of this */
    uint64_t multiplier;
} row_set;

/* For so many slots that at most half of them are taken. */
static int bits_for(int64_t capacity)
{
    int bits = 4;
    while ((int64_t)1 << bits < 2 * capacity)
        ++bits;
    return bits;
}

int64_t hiersrec_covisitation_capacity(const hiersrec_covisitation *scorer, const int64_t *session, int64_t length,
                                       hiersrec_neighbours *near)
{
    int64_t capacity = length;
    for (int64_t at = 0; at < length && at < HIERSREC_REACH; ++at) {
        int64_t row = session[length - 1 - at], start = scorer->offsets[row], stop = scorer->offsets[row + 1];
        bool fits = 0 <= start && start <= stop && stop <= scorer->edges;
        near->first[at] = fits ? start : 0;
        near->count[at] = fits ? stop - start : 0;
        capacity += near->count[at];
    }
    return capacity < scorer->n ? capacity : scorer->n; /* a row is covisited once */
}

int64_t hiersrec_covisitation_workspace(int64_t capacity)
{
    return capacity * (int64_t)(sizeof(covisited_row) + sizeof(uint64_t)) + ((int64_t)sizeof(int32_t) << bits_for(capacity));
}

/* The entry of `row`, which is made if there is none. */
static covisited_row *entry_of(row_set *all, int32_t row)
{
    uint64_t at = (uint32_t)row * all->multiplier >> (64 - all->bits), last = ((uint64_t)1 << all->bits) - 1;
    while (all->slots[at] >= 0) {
        if (all->rows[all->slots[at]].row == row)
            return &all->rows[all->slots[at]];
        at = (at + 1) & last;
    }
    all->slots[at] = (int32_t)all->count;
    covisited_row *one = &all->rows[all->count++];
    memset(one, 0, sizeof *one);
    one->row = row;
    one->since = -1;
    return one;
}

static void add_neighbours(const hiersrec_covisitation *scorer, int64_t first, int64_t count, double weight, bool newest,
                           row_set *all)
{
    for (int64_t edge = first; edge < first + count; ++edge) {
        int32_t row = scorer->rows[edge];
        if (row < 0 || row >= scorer->n)
            continue;
        const uint16_t *counts = scorer->counts + edge * HIERSREC_EDGE_COUNTS;
        covisited_row *one = entry_of(all, row);
        one->after += weight * counts[0];
        one->before += weight * counts[1];
        for (int at = 0; newest && at < HIERSREC_EDGE_COUNTS; ++at)
            one->of_newest[at] = counts[at];
    }
}

/* Shell sort: a few hundred keys, and no recursion. */
static void sort(uint64_t *keys, int64_t count)
{
    static const int64_t gaps[] = { /* Ciura's; above, each is 2.25 times the last */
        1698453753, 754868335, 335497038, 149109795, 66271020, 29453787, 13090572, 5818032, 2585792,
        1149241, 510774, 227011, 100894, 44842, 19930, 8858, 3937, 1750,
        701, 301, 132, 57, 23, 10, 4, 1,
    };
    for (size_t pass = 0; pass < sizeof gaps / sizeof *gaps; ++pass)
        for (int64_t at = gaps[pass]; at < count; ++at) {
            uint64_t key = keys[at];
            int64_t to = at;
            for (; to >= gaps[pass] && keys[to - gaps[pass]] > key; to -= gaps[pass])
                keys[to] = keys[to - gaps[pass]];
            keys[to] = key;
        }
}

/*
 * log(1 + count) for count >= 0. 1 + count = 2^e m with m in [sqrt(1/2), sqrt(2)), and log m = 2 (s + s^3 / 3 + s^5 / 5 ...)
 * with s = (m - 1) / (m + 1): all by operations that IEEE 754 rounds correctly, so that NumPy can give the same bits.
 */
INLINE float log_of(float count)
{
    if (count == 0) /* most are */
        return 0;
    double m = 1 + (double)count;
    uint64_t bits;
    memcpy(&bits, &m, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52;
    memcpy(&m, &bits, sizeof m);
    if (m >= 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
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

static void add_feature(const hiersrec_covisitation *scorer, int feature, float value, float *hidden)
{
    if (value == 0)
        return;
    const float *weight = scorer->hidden_weight + feature * scorer->hidden;
    for (int64_t at = 0; at < scorer->hidden; ++at)
        hidden[at] += value * weight[at];
}

int64_t hiersrec_covisitation_offsets(const hiersrec_covisitation *scorer, const int64_t *session, int64_t length,
                                      const hiersrec_neighbours *near, int64_t capacity, int64_t *rows, float *offsets,
                                      void *workspace)
{
    uint64_t *keys = workspace;
    row_set all = {.rows = (covisited_row *)(keys + capacity), .bits = bits_for(capacity), .multiplier = scorer->multiplier};
    all.slots = (int32_t *)(all.rows + capacity);
    memset(all.slots, 0xFF, sizeof *all.slots << all.bits);

    const int64_t newest = session[length - 1];
    double weight = 1;
    for (int64_t at = 0; at < length && at < HIERSREC_REACH; ++at, weight *= 0.8f)
        add_neighbours(scorer, near->first[at], near->count[at], weight, at == 0, &all);
    float distinct = 0;
    for (int64_t at = 0; at < length; ++at) {
        int64_t row = session[length - 1 - at];
        covisited_row *one = entry_of(&all, (int32_t)row);
        if (one->count == 0) {
            one->since = (int32_t)at;
            ++distinct;
        }
        ++one->count;
        one->precedes += at > 0 && session[length - at] == newest;
        one->follows += at + 1 < length && session[length - 2 - at] == newest;
    }

    /* features that all rows share, once */
    enum { SUMS = HIERSREC_POPULARITIES, OF_NEWEST = SUMS + 2, OF_SESSION = OF_NEWEST + HIERSREC_EDGE_COUNTS };
    float shared[HIERSREC_MAX_HIDDEN], hidden[HIERSREC_MAX_HIDDEN];
    memcpy(shared, scorer->hidden_bias, (size_t)scorer->hidden * sizeof *shared);
    add_feature(scorer, OF_SESSION + 3, log_of((float)length), shared);
    add_feature(scorer, OF_SESSION + 4, log_of(entry_of(&all, (int32_t)newest)->count - 1), shared);
    add_feature(scorer, OF_SESSION + 6, distinct / (float)length, shared);
    add_feature(scorer, OF_SESSION + 7, scorer->popularity[newest * HIERSREC_POPULARITIES + HIERSREC_POPULARITIES - 1], shared);

    for (int64_t at = 0; at < all.count; ++at)
        keys[at] = (uint64_t)(uint32_t)all.rows[at].row << 32 | (uint64_t)at;
    sort(keys, all.count);
    for (int64_t at = 0; at < all.count; ++at) {
        const covisited_row *one = &all.rows[keys[at] & 0xFFFFFFFFu];
        const float *popularity = scorer->popularity + (int64_t)one->row * HIERSREC_POPULARITIES;
        memcpy(hidden, shared, (size_t)scorer->hidden * sizeof *hidden);
        for (int part = 0; part < HIERSREC_POPULARITIES; ++part)
            add_feature(scorer, part, popularity[part], hidden);
        add_feature(scorer, SUMS, log_of((float)one->after), hidden);
        add_feature(scorer, SUMS + 1, log_of((float)one->before), hidden);
        for (int part = 0; part < HIERSREC_EDGE_COUNTS; ++part)
            add_feature(scorer, OF_NEWEST + part, log_of(one->of_newest[part]), hidden);
        if (one->count > 0) {
            add_feature(scorer, OF_SESSION, log_of(one->count), hidden);
            add_feature(scorer, OF_SESSION + 1, log_of(one->follows), hidden);
            add_feature(scorer, OF_SESSION + 2, log_of(one->precedes), hidden);
        }
        add_feature(scorer, OF_SESSION + 5, one->since < 0 ? -1 : log_of((float)one->since), hidden);
        float offset = scorer->weight[scorer->hidden];
        for (int64_t unit = 0; unit < scorer->hidden; ++unit)
            offset += scorer->weight[unit] * (hidden[unit] > 0 ? hidden[unit] : 0);
        rows[at] = one->row;
        offsets[at] = offset;
    }
    return all.count;
}
