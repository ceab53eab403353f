/*
 * The scan: which rows are looked at, in what order, and what is kept. The contract is in topk.h, the bound in query_codes.h.
 *
 * The order of work
 *   Covisited rows are scored at once. A row that passes its bound enters `survivors` with its upper bound. The k-th best of
 *   the lower bounds seen is a threshold that no result lies below. Vectors are read only at the end, or when `survivors` is
 *   full: by falling upper bound, until that is below the k-th best score.
 */
#include "heap.h"
#include "query_codes.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum {
    TILE = 64,            /* blocks at a time: their sums stay in the first-level cache */
    LONG_TILE = 512,      /* blocks at a time where nothing is pruned: fewer starts, for which nothing was prefetched */
    FIRST_TILE = 4,       /* blocks in the first tile, doubled each time: the threshold is still rising fast */
    SHARED_ROWS = 1024,   /* rows at a time that several requests share: their codes stay in the second-level cache */
    MAX_SURVIVORS = 512,  /* and 2 k more, before they are rescored */
    MIN_PAUSE = 64,       /* blocks that are scanned without pruning after a tile where pruning saved less than a fifth, */
    MAX_PAUSE = 4096,     /* doubled each time, up to this */
};

/* ---- one search: a request with its state ---- */

typedef struct {
    const hiersrec_table *table;
    hiersrec_request *request;
    const kernels *isa;
    int64_t k;
    bool coded;
    query_codes codes;        /* if `coded` */
    heap best;                /* exact scores, in the request's outputs */
    heap survivors;           /* rows that passed, with their upper bounds; a heap only while they are rescored */
    int64_t survivor_capacity;
    heap lower;               /* the k best lower bounds, or scores, of the rows seen */
    float threshold;          /* a row below it is not among the k best */
    int64_t unpruned;         /* blocks still to be scanned without pruning, */
    int64_t pause;            /* and how many these were at first */
    int64_t next;             /* the first range of the rest that has not been scanned to its end */
    block_list tile;          /* blocks that have been gathered, */
    int64_t tile_size;        /* and their limit */
    int32_t *fine_dots;       /* [LONG_TILE, 16] */
    /* if several searches share a first pass: */
    bool shares;
    block_list kept_tile;     /* the blocks that it leaves of a tile for this search; empty between tiles */
    shared_query *shared;     /* [searches], in the first search's workspace */
} search;

/* How many of `rows`, which rise, lie before `row`. */
INLINE int64_t before(const int64_t *rows, int64_t count, int64_t row)
{
    int64_t low = 0;
    while (count > 0) {
        int64_t half = count / 2;
        if (rows[low + half] < row) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

INLINE bool listed(const int64_t *rows, int64_t count, int64_t row)
{
    return count && row >= rows[0] && row <= rows[count - 1] && rows[before(rows, count, row)] == row;
}

INLINE bool allowed(const hiersrec_request *request, int64_t row)
{
    return !request->bitmap || request->bitmap[row / 64] >> (row % 64) & 1;
}

/* Bit j: row j of the block may rank. */
INLINE uint16_t allowed_lanes(const hiersrec_request *request, int64_t block)
{
    return (uint16_t)(request->bitmap[block / 4] >> block % 4 * LANES);
}

static int64_t row_bytes(const hiersrec_table *t)
{
    return t->dimension * 4 + (t->bias ? 4 : 0);
}

static void score_rows(const search *s, int64_t row, int64_t count, float *dots)
{
    const hiersrec_table *t = s->table;
    s->isa->dot_products(t->vectors + row * t->dimension, s->request->query, t->dimension, count, dots);
    for (int64_t i = 0; t->bias && i < count; ++i)
        dots[i] += t->bias[row + i];
}

/* ---- keeping what may rank ---- */

INLINE void raise_threshold(search *s, float score)
{
    if (s->lower.count < s->k) {
        if (score == score)
            push(&s->lower, score, 0);
    } else if (score > s->lower.scores[0]) {
        sink(&s->lower, 0, s->lower.count, score, 0);
    }
    if (s->lower.count == s->k && s->lower.scores[0] > s->threshold)
        s->threshold = s->lower.scores[0];
}

/* Drop survivors that the threshold has overtaken. */
static void drop_overtaken(search *s)
{
    heap *survivors = &s->survivors;
    int64_t kept = 0;
    for (int64_t i = 0; i < survivors->count; ++i) {
        survivors->scores[kept] = survivors->scores[i];
        survivors->rows[kept] = survivors->rows[i];
        kept += !(survivors->scores[i] < s->threshold);
    }
    survivors->count = kept;
}

/* Score the survivors, best upper bound first, until the k-th best score is above the upper bounds left. */
static void rescore(search *s)
{
    enum { AHEAD = 8 };
    drop_overtaken(s);
    if (s->survivors.count == 0)
        return;
    heap *survivors = &s->survivors;
    const hiersrec_table *t = s->table;
    int64_t kept = survivors->count, scored = 0;
    make_heap(survivors);
    sort_best_first(survivors);
    for (int64_t i = -AHEAD; i < kept; ++i) {
        if (i + AHEAD < kept)
            prefetch_row(t, survivors->rows[i + AHEAD]);
        if (i < 0)
            continue;
        if (s->best.count == s->k && survivors->scores[i] < s->best.scores[0])
            break;
        float score;
        score_rows(s, survivors->rows[i], 1, &score);
        offer(&s->best, s->k, score, survivors->rows[i]);
        ++scored;
    }
    s->request->bytes_read += scored * row_bytes(t);
    survivors->count = 0;
    /* From now on the scores themselves are the lower bounds: all survivors have been scored or are below. */
    s->lower.count = s->best.count;
    memcpy(s->lower.scores, s->best.scores, (size_t)s->best.count * sizeof *s->best.scores);
    memcpy(s->lower.rows, s->best.rows, (size_t)s->best.count * sizeof *s->best.rows);
    if (s->best.count == s->k && s->best.scores[0] > s->threshold)
        s->threshold = s->best.scores[0];
}

static void keep(search *s, float upper, float lower, int64_t row)
{
    if (upper < s->threshold || listed(s->request->skipped, s->request->skipped_count, row) ||
        listed(s->request->covisited, s->request->covisited_count, row))
        return;
    if (s->survivors.count == s->survivor_capacity) {
        drop_overtaken(s);
        if (2 * s->survivors.count > s->survivor_capacity) /* much is left */
            rescore(s);
    }
    s->survivors.scores[s->survivors.count] = upper == upper ? upper : INFINITY; /* a NaN, of a bias, has no order */
    s->survivors.rows[s->survivors.count++] = row;
    raise_threshold(s, lower);
}

/* Bound the blocks that the last pass left once more, by all bits of the query's codes. */
static void keep_blocks(search *s, const block_list *list)
{
    block_list fine = *list;
    fine.dots = s->fine_dots;
    fine.fetch = false;
    for (int64_t at = 0; at < s->codes.passes && list->count; ++at)
        s->isa->add(&s->codes.fine[at], at == 0, &fine);
    const float *bias = s->table->bias, tiny = s->codes.coarse[0].tiny;
    for (int64_t i = 0; i < list->count; ++i) {
        for (unsigned lanes = list->lanes[i], lane = 0; lanes; lanes >>= 1, ++lane) {
            if (!(lanes & 1))
                continue;
            int64_t row = (int64_t)list->blocks[i] * LANES + lane, at = LANES * i + lane;
            float dot = s->codes.step * (128 * (float)list->dots[at] + (float)fine.dots[at]);
            float scale = from_bfloat(s->table->scales[row]), added = bias ? bias[row] : 0;
            keep(s, scale * (dot + s->codes.slack) + tiny + added, scale * (dot - s->codes.slack) - tiny + added, row);
        }
    }
}

/* ---- scanning ---- */

/* Rows [start, stop) by their vectors alone. */
static void scan_vectors(search *s, int64_t start, int64_t stop)
{
    enum { AT_ONCE = 64 };
    hiersrec_request *request = s->request;
    int64_t scored = 0;
    for (int64_t row = start; row < stop;) {
        int64_t count = stop - row < AT_ONCE ? stop - row : AT_ONCE;
        if (request->bitmap) { /* a run of rows that are allowed */
            while (row < stop && !allowed(request, row))
                ++row;
            for (count = 0; row + count < stop && count < AT_ONCE && allowed(request, row + count); ++count)
                ;
        }
        float scores[AT_ONCE];
        score_rows(s, row, count, scores);
        for (int64_t i = 0; i < count; ++i) {
            if (s->best.count == s->k && !(scores[i] >= s->best.scores[0]))
                continue;
            if (!listed(request->skipped, request->skipped_count, row + i) &&
                !listed(request->covisited, request->covisited_count, row + i))
                offer(&s->best, s->k, scores[i], row + i);
        }
        scored += count;
        row += count;
    }
    request->rows_scored += scored;
    request->bytes_read += scored * row_bytes(s->table);
}

INLINE int bits_of(uint16_t lanes)
{
    int bits = 0;
    for (unsigned left = lanes; left; left &= left - 1)
        ++bits;
    return bits;
}

/*
 * Run the passes from `from` on over a list of blocks, and keep what is left. `gathered` and `read`: blocks at the first
 * pass, and bytes of codes that the passes before `from` read.
 */
static void run_passes(search *s, block_list list, int64_t from, int64_t gathered, int64_t read, bool pruned)
{
    const hiersrec_table *t = s->table;
    int64_t all = gathered * LANES * t->stage_ends[t->stage_count - 1];
    if (!pruned && from == 0 && s->codes.passes > 1 && s->isa->add_many) {
        /* all but the first, which is the shortest and comes last here, with the bound of all dimensions */
        pass closing = s->codes.coarse[0];
        closing.slack = s->codes.coarse[s->codes.passes - 1].slack;
        closing.suffix_norms = NULL;
        s->isa->add_many(s->codes.coarse + 1, s->codes.passes - 1, &list);
        s->isa->add_and_prune(&closing, false, s->threshold, &list);
        from = s->codes.passes;
        read = all;
    }
    for (int64_t at = from; at < s->codes.passes && list.count; ++at) {
        const pass *p = &s->codes.coarse[at];
        read += list.count * p->block_bytes;
        if (pruned || at + 1 == s->codes.passes)
            s->isa->add_and_prune(p, at == 0, s->threshold, &list);
        else
            s->isa->add(p, at == 0, &list);
    }
    if (pruned && gathered >= TILE / 2) {
        bool paid = 5 * read <= 4 * all; /* else asking costs more than it saves */
        s->pause = paid ? MIN_PAUSE : s->pause < MAX_PAUSE ? 2 * s->pause : MAX_PAUSE;
        s->unpruned = paid ? 0 : s->pause;
    } else if (!pruned && s->unpruned) {
        s->unpruned = s->unpruned > gathered ? s->unpruned - gathered : 0;
    }
    s->request->bytes_read += read + gathered * LANES * ((pruned ? 4 : 2) + (t->bias ? 4 : 0));
    keep_blocks(s, &list);
}

/* Whether there is a threshold, and it has not just been found to drop too little. */
INLINE bool prunes(const search *s)
{
    return s->threshold > -INFINITY && s->unpruned == 0;
}

/* Scan the blocks that have been gathered. */
static void scan_tile(search *s)
{
    block_list list = s->tile;
    s->tile.count = 0;
    run_passes(s, list, 0, list.count, 0, prunes(s));
    if (s->threshold > -INFINITY)
        s->tile_size = s->unpruned > TILE ? (s->unpruned < LONG_TILE ? s->unpruned : LONG_TILE)
                       : s->tile_size < TILE ? 2 * s->tile_size : TILE;
}

/* Gather the blocks that hold rows [start, stop); several ranges may share a tile. */
static void gather(search *s, int64_t start, int64_t stop)
{
    const hiersrec_request *r = s->request;
    block_list *tile = &s->tile;
    for (int64_t block = start / LANES, first; (first = block * LANES) < stop;) {
        int64_t room = s->tile_size - tile->count, whole = (stop - first) / LANES;
        if (!r->bitmap && first >= start && whole) { /* whole blocks, as many as there is room for */
            whole = whole < room ? whole : room;
            for (int64_t i = 0; i < whole; ++i) {
                tile->blocks[tile->count + i] = (uint32_t)(block + i);
                tile->lanes[tile->count + i] = 0xffff;
            }
            tile->count += whole;
            block += whole;
            s->request->rows_scored += whole * LANES;
        } else {
            unsigned lanes = 0xffff;
            if (first < start)
                lanes &= 0xffffu << (start - first);
            if (first + LANES > stop)
                lanes &= 0xffffu >> (first + LANES - stop);
            if (r->bitmap)
                lanes &= allowed_lanes(r, block);
            lanes &= 0xffff;
            tile->blocks[tile->count] = (uint32_t)block++;
            tile->lanes[tile->count] = (uint16_t)lanes;
            tile->count += lanes != 0;
            s->request->rows_scored += bits_of((uint16_t)lanes);
        }
        if (tile->count == s->tile_size)
            scan_tile(s);
    }
}

/* Scan what has been gathered: before another request gathers, or survivors are rescored. */
static void finish(search *s)
{
    if (s->tile.count)
        scan_tile(s);
}

/* Whether a covisited row ranks. */
INLINE bool ranks(const hiersrec_request *r, int64_t row)
{
    return allowed(r, row) && !listed(r->skipped, r->skipped_count, row);
}

/* Covisited rows among [start, stop) have been counted already. */
static void uncount_covisited(search *s, int64_t start, int64_t stop)
{
    hiersrec_request *r = s->request;
    for (int64_t i = before(r->covisited, r->covisited_count, start); i < r->covisited_count && r->covisited[i] < stop; ++i)
        r->rows_scored -= ranks(r, r->covisited[i]);
}

static void scan(search *s, int64_t start, int64_t stop)
{
    if (start >= stop)
        return;
    uncount_covisited(s, start, stop);
    if (s->coded)
        gather(s, start, stop);
    else
        scan_vectors(s, start, stop);
}

/* Those rows of [start, stop) that are in the rest; called with rising starts. */
static void scan_rest(search *s, int64_t start, int64_t stop)
{
    const hiersrec_request *r = s->request;
    for (; s->next < r->rest_count && r->rest[2 * s->next] < stop; ++s->next) {
        int64_t from = r->rest[2 * s->next], to = r->rest[2 * s->next + 1];
        scan(s, from > start ? from : start, to < stop ? to : stop);
        if (to > stop)
            break;
    }
}

/* Whether one range of the rest holds all of [start, stop), so that the first pass can be shared. */
static bool shares(search *s, int64_t start, int64_t stop)
{
    const hiersrec_request *r = s->request;
    while (s->next < r->rest_count && r->rest[2 * s->next + 1] <= start)
        ++s->next;
    return s->coded && prunes(s) && s->isa->prune_shared && s->codes.coarse[0].groups == SHARED_GROUPS &&
           s->next < r->rest_count && r->rest[2 * s->next] <= start && r->rest[2 * s->next + 1] >= stop &&
           stop % LANES == 0;
}

/* Drop lanes that the bitmap does not allow, and blocks that are left without. */
static void apply_bitmap(const hiersrec_request *r, block_list *list)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < list->count; ++i) {
        uint16_t lanes = list->lanes[i] & allowed_lanes(r, list->blocks[i]);
        list->blocks[kept] = list->blocks[i];
        list->lanes[kept] = lanes;
        memmove(list->dots + LANES * kept, list->dots + LANES * i, LANES * sizeof *list->dots);
        kept += lanes != 0;
    }
    list->count = kept;
}

/* The rows of [start, stop) in the rests of several searches, the first pass for as many as can at once. */
static void scan_shared(search *searches, int64_t count, int64_t start, int64_t stop)
{
    shared_query *queries = searches[0].shared;
    const search *one = NULL; /* of those that share: codes, scales and suffix norms are the same for all */
    int64_t sharing = 0, blocks = (stop - start) / LANES;
    for (int64_t i = 0; i < count; ++i) {
        search *s = &searches[i];
        s->shares = shares(s, start, stop);
        if (!s->shares) {
            scan_rest(s, start, stop);
            finish(s);
            continue;
        }
        one = s;
        const pass *p = &s->codes.coarse[0];
        queries[sharing++] = (shared_query){
            .query = p->query,
            .step = p->step * 16,
            .slack = p->step * (float)p->correction + p->slack,
            .reach = p->reach,
            .threshold = s->threshold,
            .correction = p->correction,
            .kept = s->kept_tile,
        };
    }
    if (one)
        one->isa->prune_shared(&one->codes.coarse[0], (uint32_t)(start / LANES), blocks, queries, sharing);
    for (int64_t i = 0, at = 0; i < count; ++i) {
        search *s = &searches[i];
        hiersrec_request *r = s->request;
        if (!s->shares)
            continue;
        block_list list = queries[at++].kept;
        uncount_covisited(s, start, stop);
        if (r->bitmap) {
            apply_bitmap(r, &list);
            for (int64_t block = start / LANES; block * LANES < stop; ++block)
                r->rows_scored += bits_of(allowed_lanes(r, block));
        } else {
            r->rows_scored += stop - start;
        }
        run_passes(s, list, 1, blocks, blocks * s->codes.coarse[0].block_bytes, true);
    }
}

/* Few, so they are scored at once, by their vectors. */
static void scan_covisited(search *s)
{
    enum { AHEAD = 8 };
    hiersrec_request *r = s->request;
    for (int64_t i = -AHEAD; i < r->covisited_count; ++i) {
        if (i + AHEAD < r->covisited_count)
            prefetch_row(s->table, r->covisited[i + AHEAD]);
        if (i < 0 || !ranks(r, r->covisited[i]))
            continue;
        float score;
        score_rows(s, r->covisited[i], 1, &score);
        score += r->offsets[i];
        offer(&s->best, s->k, score, r->covisited[i]);
        raise_threshold(s, score);
        ++r->rows_scored;
        r->bytes_read += row_bytes(s->table);
    }
}

/* ---- workspace: parts of one buffer, each aligned to 64 bytes ---- */

/* The next part; NULL where there is no buffer and only its size is wanted. */
static void *take(char *buffer, int64_t *used, int64_t bytes)
{
    void *part = buffer ? buffer + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return part;
}

/* Lay out the searches at the beginning of `buffer`; return the bytes that this takes. */
static int64_t lay_out(const hiersrec_table *table, int64_t count, int64_t k, char *buffer)
{
    int64_t used = 0, survivors = MAX_SURVIVORS + 2 * k;
    int64_t groups = table->codes ? table->stage_ends[table->stage_count - 1] / 4 : 0;
    search *searches = take(buffer, &used, count * (int64_t)sizeof *searches);
    /* what a tile needs is shared: requests take turns */
    uint32_t *blocks = take(buffer, &used, LONG_TILE * (int64_t)sizeof *blocks);
    uint16_t *lanes = take(buffer, &used, LONG_TILE * (int64_t)sizeof *lanes);
    int32_t *dots = take(buffer, &used, LONG_TILE * LANES * (int64_t)sizeof *dots);
    int32_t *fine_dots = take(buffer, &used, LONG_TILE * LANES * (int64_t)sizeof *fine_dots);
    shared_query *shared = take(buffer, &used, count * (int64_t)sizeof *shared);
    int64_t kept_tile = count > 1 ? SHARED_ROWS / LANES : 0;
    for (int64_t i = 0; i < count; ++i) {
        search s = {.table = table, .k = k, .survivor_capacity = survivors, .tile_size = FIRST_TILE, .pause = MIN_PAUSE};
        s.tile = (block_list){blocks, lanes, dots, 0, true};
        s.fine_dots = fine_dots;
        s.shared = shared;
        s.kept_tile.blocks = take(buffer, &used, kept_tile * (int64_t)sizeof *s.kept_tile.blocks);
        s.kept_tile.lanes = take(buffer, &used, kept_tile * (int64_t)sizeof *s.kept_tile.lanes);
        s.kept_tile.dots = take(buffer, &used, kept_tile * LANES * (int64_t)sizeof *s.kept_tile.dots);
        s.codes.coarse_groups = take(buffer, &used, groups * (int64_t)sizeof *s.codes.coarse_groups);
        s.codes.fine_groups = take(buffer, &used, groups * (int64_t)sizeof *s.codes.fine_groups);
        s.survivors.scores = take(buffer, &used, survivors * (int64_t)sizeof *s.survivors.scores);
        s.survivors.rows = take(buffer, &used, survivors * (int64_t)sizeof *s.survivors.rows);
        s.lower.scores = take(buffer, &used, k * (int64_t)sizeof *s.lower.scores);
        s.lower.rows = take(buffer, &used, k * (int64_t)sizeof *s.lower.rows);
        if (buffer)
            searches[i] = s;
    }
    return used;
}

int64_t hiersrec_workspace(const hiersrec_table *table, int64_t requests, int64_t k)
{
    return lay_out(table, requests, k, NULL);
}

void hiersrec_topk(const hiersrec_table *table, hiersrec_request *requests, int64_t count, int64_t k, void *workspace)
{
    enum { AHEAD = 4 };
    search *searches = workspace;
    bool any_rest = false;
    lay_out(table, count, k, workspace);
    for (int64_t i = 0; i < count; ++i) {
        search *s = &searches[i];
        hiersrec_request *r = s->request = &requests[i];
        s->isa = hiersrec_kernels();
        s->best = (heap){r->scores, r->rows, 0};
        s->threshold = -INFINITY;
        s->coded = table->codes && hiersrec_encode_query(table, r->query, &s->codes);
        r->rows_scored = r->bytes_read = 0;
        scan_covisited(s);
        for (int64_t at = 0; at < r->range_count; ++at) {
            if (!s->coded && at + AHEAD < r->range_count) /* rows that were added lie here and there */
                prefetch_row(table, r->ranges[2 * (at + AHEAD)]);
            scan(s, r->ranges[2 * at], r->ranges[2 * at + 1]);
        }
        finish(s);
        if (r->rest_count && s->coded)
            rescore(s); /* the best threshold that can be had before the rest is read */
        any_rest |= r->rest_count > 0;
    }
    int64_t shared = count > 1 ? SHARED_ROWS : table->n;
    for (int64_t start = 0; any_rest && start < table->n; start += shared) {
        int64_t stop = table->n - start < shared ? table->n : start + shared;
        if (count > 1)
            scan_shared(searches, count, start, stop);
        else
            scan_rest(searches, start, stop);
        finish(searches);
    }
    for (int64_t i = 0; i < count; ++i) {
        search *s = &searches[i];
        rescore(s);
        sort_best_first(&s->best);
        s->request->count = s->best.count;
    }
}
