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
                                       hiersrec_neighbors *near)
{
    int64_t capacity = length;
    for (int64_t at = 0; at < length && at < HIERSREC_REACH; ++at) {
        int64_t row = session[length - 1 - at], start = scorer->offsets[row], stop = scorer->offsets[row + 1];
        bool fits = 0 <= start && start <= stop && stop <= scorer->edges;
        near->first[at] = fits ? start : 0;
        near->count[at] = fits ? stop - start : 0;
        for (int64_t edge = near->first[at]; edge < near->first[at] + near->count[at]; edge += 16) {
            prefetch(scorer->rows + edge);
            prefetch(scorer->counts + edge * HIERSREC_EDGE_COUNTS);
            prefetch(scorer->counts + (edge + 8) * HIERSREC_EDGE_COUNTS);
        }
        capacity += near->count[at];
    }
    return capacity < scorer->n ? capacity : scorer->n; /* a row is covisited once */
}

int64_t hiersrec_covisitation_workspace(int64_t capacity)
{
    return capacity * (int64_t)(sizeof(covisited_row) + 2 * sizeof(uint64_t)) + ((int64_t)sizeof(int32_t) << bits_for(capacity));
}

/* The entry of `row`, which is made if there is none. */
static covisited_row *entry_of(const hiersrec_covisitation *scorer, row_set *all, int32_t row)
{
    uint64_t at = (uint32_t)row * all->multiplier >> (64 - all->bits), last = ((uint64_t)1 << all->bits) - 1;
    while (all->slots[at] >= 0) {
        if (all->rows[all->slots[at]].row == row)
            return &all->rows[all->slots[at]];
        at = (at + 1) & last;
    }
    all->slots[at] = (int32_t)all->count;
    prefetch(scorer->popularity + (int64_t)row * HIERSREC_POPULARITIES); /* for its features */
    covisited_row *one = &all->rows[all->count++];
    memset(one, 0, sizeof *one);
    one->row = row;
    one->since = -1;
    return one;
}

static void add_neighbors(const hiersrec_covisitation *scorer, int64_t first, int64_t count, double weight, bool newest,
                           row_set *all)
{
    for (int64_t edge = first; edge < first + count; ++edge) {
        int32_t row = scorer->rows[edge];
        if (row < 0 || row >= scorer->n)
            continue;
        const uint16_t *counts = scorer->counts + edge * HIERSREC_EDGE_COUNTS;
        covisited_row *one = entry_of(scorer, all, row);
        one->after += weight * counts[0];
        one->before += weight * counts[1];
        for (int at = 0; newest && at < HIERSREC_EDGE_COUNTS; ++at)
            one->of_newest[at] = counts[at];
    }
}

/* Sort the entries' numbers by their rows, below `n`: a radix sort, byte by byte. Both have room for `count`; returns the
   one that is sorted. */
static uint64_t *sort(uint64_t *keys, uint64_t *spare, int64_t count, int64_t n)
{
    for (int shift = 32; (n - 1) >> (shift - 32); shift += 8) {
        int32_t starts[257] = {0};
        for (int64_t at = 0; at < count; ++at)
            ++starts[(keys[at] >> shift & 255) + 1];
        for (int byte = 0; byte < 256; ++byte)
            starts[byte + 1] += starts[byte];
        for (int64_t at = 0; at < count; ++at)
            spare[starts[keys[at] >> shift & 255]++] = keys[at];
        uint64_t *sorted = spare;
        spare = keys;
        keys = sorted;
    }
    return keys;
}

static void add_feature(const hiersrec_covisitation *scorer, int feature, float value, float *hidden)
{
    const float *weight = scorer->hidden_weight + feature * scorer->hidden;
    for (int64_t at = 0; at < scorer->hidden; ++at)
        hidden[at] += value * weight[at];
}

/* A count's log; most counts are zero. */
INLINE float log_if_any(float count)
{
    return count == 0 ? 0 : log_of(count);
}

/* Write the features of `one` to a lane. */
static void set_features(const hiersrec_covisitation *scorer, const covisited_row *one, float (*features)[LANES], int lane)
{
    enum { SUMS = HIERSREC_POPULARITIES, OF_NEWEST = SUMS + 2, OF_SESSION = OF_NEWEST + HIERSREC_EDGE_COUNTS };
    const float *popularity = scorer->popularity + (int64_t)one->row * HIERSREC_POPULARITIES;
    for (int part = 0; part < HIERSREC_POPULARITIES; ++part)
        features[part][lane] = popularity[part];
    features[SUMS][lane] = (float)one->after; /* their logs are taken for all lanes together */
    features[SUMS + 1][lane] = (float)one->before;
    for (int part = 0; part < HIERSREC_EDGE_COUNTS; ++part)
        features[OF_NEWEST + part][lane] = log_if_any(one->of_newest[part]);
    features[OF_SESSION][lane] = log_if_any(one->count);
    features[OF_SESSION + 1][lane] = log_if_any(one->follows);
    features[OF_SESSION + 2][lane] = log_if_any(one->precedes);
    features[OF_SESSION + 3][lane] = one->since < 0 ? -1 : log_if_any((float)one->since);
}

int64_t hiersrec_covisitation_offsets(const hiersrec_covisitation *scorer, const int64_t *session, int64_t length,
                                      const hiersrec_neighbors *near, int64_t capacity, int64_t *rows, float *offsets,
                                      const hiersrec_table *next, void *workspace)
{
    uint64_t *keys = workspace;
    row_set all = {.rows = (covisited_row *)(keys + 2 * capacity), .bits = bits_for(capacity), .multiplier = scorer->multiplier};
    all.slots = (int32_t *)(all.rows + capacity);
    memset(all.slots, 0xFF, sizeof *all.slots << all.bits);

    const int64_t newest = session[length - 1];
    double weight = 1;
    for (int64_t at = 0; at < length && at < HIERSREC_REACH; ++at, weight *= 0.8f)
        add_neighbors(scorer, near->first[at], near->count[at], weight, at == 0, &all);
    float distinct = 0;
    for (int64_t at = 0; at < length; ++at) {
        int64_t row = session[length - 1 - at];
        covisited_row *one = entry_of(scorer, &all, (int32_t)row);
        if (one->count == 0) {
            one->since = (int32_t)at;
            ++distinct;
        }
        ++one->count;
        one->precedes += at > 0 && session[length - at] == newest;
        one->follows += at + 1 < length && session[length - 2 - at] == newest;
    }

    /* features that all rows share, once */
    enum { OF_SESSION = HIERSREC_POPULARITIES + 2 + HIERSREC_EDGE_COUNTS };
    float shared[HIERSREC_MAX_HIDDEN];
    memcpy(shared, scorer->hidden_bias, (size_t)scorer->hidden * sizeof *shared);
    add_feature(scorer, OF_SESSION + 3, log_of((float)length), shared);
    add_feature(scorer, OF_SESSION + 4, log_of(entry_of(scorer, &all, (int32_t)newest)->count - 1), shared);
    add_feature(scorer, OF_SESSION + 6, distinct / (float)length, shared);
    add_feature(scorer, OF_SESSION + 7, scorer->popularity[newest * HIERSREC_POPULARITIES + HIERSREC_POPULARITIES - 1], shared);

    for (int64_t at = 0; at < all.count; ++at)
        keys[at] = (uint64_t)(uint32_t)all.rows[at].row << 32 | (uint64_t)at;
    keys = sort(keys, keys + capacity, all.count, scorer->n);
    const kernels *isa = hiersrec_kernels();
    for (int64_t first = 0; first < all.count; first += LANES) {
        float features[HIERSREC_ROW_FEATURES][LANES], found[LANES];
        const int count = all.count - first < LANES ? (int)(all.count - first) : LANES;
        for (int lane = 0; next && lane < count; ++lane)
            prefetch_row(next, (int64_t)(keys[first + lane] >> 32));
        for (int lane = 0; lane < LANES; ++lane) /* the lanes that are left over repeat the last row */
            set_features(scorer, &all.rows[keys[first + (lane < count ? lane : count - 1)] & 0xFFFFFFFFu], features, lane);
        isa->score_offsets(scorer, shared, features, found);
        for (int lane = 0; lane < count; ++lane) {
            rows[first + lane] = (int64_t)(keys[first + lane] >> 32);
            offsets[first + lane] = found[lane];
        }
    }
    return all.count;
}
