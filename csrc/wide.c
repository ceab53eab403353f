/* Linked rows are found through a hash table, then sorted, then go through the network. The contract is in wide.h. */
#include "wide.h"

#include <math.h>
#include <string.h>

/* What is summed of a linked row; features are made of it at the end. */
typedef struct {
    int32_t row;
    int32_t since; /* clicks since its newest one; -1: the session does not hold it */
    float after, before;
    float of_newest[HIERSREC_CLICKS_OF];
    float count, follows, precedes;
} linked;

typedef struct {
    linked *rows;
    int64_t count;
    int32_t *slots; /* number of a row, -1 where free */
    uint64_t mask;
} found;

static int64_t slots_for(int64_t room)
{
    int64_t slots = 16;
    while (slots < 2 * room)
        slots *= 2;
    return slots;
}

/* Neighbours of `row`, from edge *first on: a bundle that was not verified may hold anything. */
static int64_t neighbours(const hiersrec_wide *wide, int64_t row, int64_t *first)
{
    int64_t start = wide->offsets[row], stop = wide->offsets[row + 1];
    *first = start;
    return start < 0 || stop < start || stop > wide->edges ? 0 : stop - start;
}

int64_t hiersrec_wide_room(const hiersrec_wide *wide, const int64_t *session, int64_t length)
{
    int64_t room = length;
    int64_t first;
    for (int64_t at = 0; at < length && at < HIERSREC_REACH; ++at)
        room += neighbours(wide, session[length - 1 - at], &first);
    return room;
}

int64_t hiersrec_wide_workspace(int64_t room)
{
    return room * (int64_t)(sizeof(linked) + sizeof(uint64_t)) + slots_for(room) * (int64_t)sizeof(int32_t);
}

static linked *link_to(found *all, int32_t row)
{
    uint64_t at = ((uint64_t)(uint32_t)row * 0x9E3779B97F4A7C15u >> 32) & all->mask;
    while (all->slots[at] >= 0) {
        if (all->rows[all->slots[at]].row == row)
            return &all->rows[all->slots[at]];
        at = (at + 1) & all->mask;
    }
    all->slots[at] = (int32_t)all->count;
    linked *one = &all->rows[all->count++];
    memset(one, 0, sizeof *one);
    one->row = row;
    one->since = -1;
    return one;
}

static void add_neighbours(const hiersrec_wide *wide, int64_t of, float weight, int newest, found *all)
{
    int64_t first, count = neighbours(wide, of, &first);
    for (int64_t edge = first; edge < first + count; ++edge) {
        int32_t row = wide->rows[edge];
        if (row < 0 || row >= wide->n)
            continue;
        const uint16_t *clicks = wide->clicks + edge * HIERSREC_CLICKS_OF;
        linked *one = link_to(all, row);
        one->after += weight * clicks[0];
        one->before += weight * clicks[1];
        for (int at = 0; newest && at < HIERSREC_CLICKS_OF; ++at)
            one->of_newest[at] = clicks[at];
    }
}

/* Shell sort: a few hundred keys, and no recursion. */
static void sort(uint64_t *keys, int64_t count)
{
    static const int64_t gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t pass = 0; pass < sizeof gaps / sizeof *gaps; ++pass)
        for (int64_t at = gaps[pass]; at < count; ++at) {
            uint64_t key = keys[at];
            int64_t to = at;
            for (; to >= gaps[pass] && keys[to - gaps[pass]] > key; to -= gaps[pass])
                keys[to] = keys[to - gaps[pass]];
            keys[to] = key;
        }
}

static void add_feature(const hiersrec_wide *wide, int feature, float value, float *hidden)
{
    if (value == 0)
        return;
    const float *weight = wide->hidden_weight + feature * wide->hidden;
    for (int64_t at = 0; at < wide->hidden; ++at)
        hidden[at] += value * weight[at];
}

int64_t hiersrec_wide_boosts(const hiersrec_wide *wide, const int64_t *session, int64_t length, int64_t room,
                             int64_t *rows, float *boosts, void *workspace)
{
    uint64_t *keys = workspace;
    found all = {.rows = (linked *)(keys + room), .count = 0};
    all.slots = (int32_t *)(all.rows + room);
    all.mask = (uint64_t)slots_for(room) - 1;
    memset(all.slots, 0xFF, (all.mask + 1) * sizeof *all.slots);

    const int64_t newest = session[length - 1];
    float weight = 1;
    for (int64_t at = 0; at < length && at < HIERSREC_REACH; ++at, weight *= 0.8f)
        add_neighbours(wide, session[length - 1 - at], weight, at == 0, &all);
    float distinct = 0;
    for (int64_t at = 0; at < length; ++at) {
        int64_t row = session[length - 1 - at];
        linked *one = link_to(&all, (int32_t)row);
        if (one->count == 0) {
            one->since = (int32_t)at;
            ++distinct;
        }
        ++one->count;
        one->precedes += at > 0 && session[length - at] == newest;
        one->follows += at + 1 < length && session[length - 2 - at] == newest;
    }

    /* features that all rows share, once */
    enum { SUMS = HIERSREC_POPULARITIES, OF_NEWEST = SUMS + 2, OWN = OF_NEWEST + HIERSREC_CLICKS_OF };
    float shared[HIERSREC_MOST_HIDDEN], hidden[HIERSREC_MOST_HIDDEN];
    memcpy(shared, wide->hidden_bias, (size_t)wide->hidden * sizeof *shared);
    add_feature(wide, OWN + 3, log1pf((float)length), shared);
    add_feature(wide, OWN + 4, log1pf(link_to(&all, (int32_t)newest)->count - 1), shared);
    add_feature(wide, OWN + 6, distinct / (float)length, shared);
    add_feature(wide, OWN + 7, wide->popularity[newest * HIERSREC_POPULARITIES + HIERSREC_POPULARITIES - 1], shared);

    for (int64_t at = 0; at < all.count; ++at)
        keys[at] = (uint64_t)(uint32_t)all.rows[at].row << 32 | (uint64_t)at;
    sort(keys, all.count);
    for (int64_t at = 0; at < all.count; ++at) {
        const linked *one = &all.rows[keys[at] & 0xFFFFFFFFu];
        const float *popularity = wide->popularity + (int64_t)one->row * HIERSREC_POPULARITIES;
        memcpy(hidden, shared, (size_t)wide->hidden * sizeof *hidden);
        for (int part = 0; part < HIERSREC_POPULARITIES; ++part)
            add_feature(wide, part, popularity[part], hidden);
        const float counts[] = {one->after, one->before};
        for (int part = 0; part < 2; ++part)
            add_feature(wide, SUMS + part, counts[part] == 0 ? 0 : log1pf(counts[part]), hidden);
        for (int part = 0; part < HIERSREC_CLICKS_OF; ++part)
            add_feature(wide, OF_NEWEST + part, one->of_newest[part] == 0 ? 0 : log1pf(one->of_newest[part]), hidden);
        if (one->count > 0) {
            add_feature(wide, OWN, log1pf(one->count), hidden);
            add_feature(wide, OWN + 1, log1pf(one->follows), hidden);
            add_feature(wide, OWN + 2, log1pf(one->precedes), hidden);
        }
        add_feature(wide, OWN + 5, one->since < 0 ? -1 : log1pf((float)one->since), hidden);
        float boost = wide->weight[wide->hidden];
        for (int64_t unit = 0; unit < wide->hidden; ++unit)
            boost += wide->weight[unit] * (hidden[unit] > 0 ? hidden[unit] : 0);
        rows[at] = one->row;
        boosts[at] = boost;
    }
    return all.count;
}
