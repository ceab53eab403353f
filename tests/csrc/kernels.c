/*
 * Every instruction set of this processor against scalar code, on random tables: the same integer dot products, and the
 * same results of hiersrec_topk to the last bit, with codes and without. For processors that the Python tests do not run
 * on; scripts/check-neon builds it.
 */
#include "query_codes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = HIERSREC_BLOCK, MOST_REQUESTS = 4 };

/* ---- random numbers ---- */

static uint64_t state = 1;

static uint64_t random_bits(void)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* In [low, high]. */
static int64_t between(int64_t low, int64_t high)
{
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}

static double uniform(void)
{
    return (double)(random_bits() >> 11) * 0x1p-53;
}

/* About normal: the sum of 12. */
static double normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; ++i)
        sum += uniform();
    return sum;
}

static void *allocate(int64_t bytes)
{
    void *memory = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64 + 64);
    if (!memory)
        exit(2);
    return memory;
}

/* ---- tables with codes: what hiersrec_sdk/ranking/codes.py makes ---- */

static float up(double value)
{
    return value > 0 ? nextafterf((float)value, INFINITY) : 0;
}

static uint16_t up_to_bfloat(double value)
{
    float single = up(value);
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return (uint16_t)((bits + 0xffff) >> 16);
}

static double value_of(const hiersrec_table *t, int64_t row, int64_t i)
{
    int64_t at = row * t->dimension + i;
    if (row >= t->n || i >= t->dimension)
        return 0;
    return t->vectors[at];
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Give the table codes in the stages that it names. */
static void encode(hiersrec_table *t)
{
    int64_t rows = (t->n + B - 1) / B * B, padded = t->stage_ends[t->stage_count - 1], first = t->stage_ends[0];
    uint8_t *codes = allocate(rows * padded);
    uint16_t *scales = allocate(rows * 2), *suffix_norms = allocate((t->stage_count - 1) * rows * 2);
    float *quantization_errors = allocate((1 + t->stage_count) * 4);
    double left_out[1 + HIERSREC_MAX_STAGES] = {0}, longest = 0;
    memset(codes, 0, (size_t)(rows * padded));
    for (int64_t row = 0; row < rows; ++row) {
        double largest = 0, squares = 0, errors = 0, leading_errors = 0;
        for (int64_t i = 0; i < padded; ++i) {
            largest = larger(largest, fabs(value_of(t, row, i)));
            squares += value_of(t, row, i) * value_of(t, row, i);
        }
        longest = larger(longest, squares);
        scales[row] = up_to_bfloat(largest / 127);
        double scale = from_bfloat(scales[row]);
        int64_t block = row / B, j = row % B;
        for (int64_t at = 0, i = 0; at < t->stage_count; ++at) {
            int64_t begin = at ? t->stage_ends[at - 1] : 0, end = t->stage_ends[at];
            for (; i < end; ++i) {
                double exact = scale > 0 ? value_of(t, row, i) / scale : 0, code = rint(exact);
                int stored = (int)code + 128;
                errors += (exact - code) * (exact - code);
                if (at) {
                    int64_t g = (i - begin) / 4;
                    codes[rows * begin + block * B * (end - begin) + 64 * g + 4 * j + i % 4] = (uint8_t)stored;
                    continue;
                }
                double leading = (stored & 0xf0) + 8 - 128;
                if (scale > 0 && i < t->dimension)
                    leading_errors += (exact - leading) * (exact - leading);
                int64_t byte = block * B * first / 2 + 64 * (i / 8) + 4 * j + i % 4;
                int shift = i % 8 < 4 ? 0 : 4;
                codes[byte] |= (uint8_t)((stored >> 4) << shift);
                codes[rows * first / 2 + byte] |= (uint8_t)((stored & 15) << shift);
            }
            left_out[1 + at] = larger(left_out[1 + at], errors);
            double suffix_norm = 0;
            for (int64_t rest = end; rest < padded; ++rest)
                suffix_norm += value_of(t, row, rest) * value_of(t, row, rest);
            if (at + 1 < t->stage_count)
                suffix_norms[at * rows + row] = up_to_bfloat(sqrt(suffix_norm));
        }
        left_out[0] = larger(left_out[0], leading_errors);
    }
    for (int64_t at = 0; at <= t->stage_count; ++at)
        quantization_errors[at] = up(sqrt(left_out[at]));
    t->codes = codes;
    t->scales = scales;
    t->suffix_norms = suffix_norms;
    t->quantization_errors = quantization_errors;
    t->max_norm = up(sqrt(longest));
}

static hiersrec_table random_table(void)
{
    enum { WHOLE, NORMAL, CLUSTERED, WIDE, KINDS };
    int kind = (int)between(0, KINDS - 1);
    hiersrec_table t = {.n = between(0, 3) ? between(1, 700) : between(1000, 3000)};
    t.dimension = between(0, 3) ? between(1, 140) : between(200, 300);
    int64_t count = t.n * t.dimension, rows = (t.n + B - 1) / B * B, *ends = allocate(HIERSREC_MAX_STAGES * 8);
    float *vectors = allocate(count * 4), *bias = allocate(rows * 4);
    for (int64_t row = 0; row < t.n; ++row) {
        double norm = kind == WIDE ? ldexp(1, (int)between(-149, 90)) : 1;
        for (int64_t i = 0; i < t.dimension; ++i) {
            double value = kind == WHOLE ? rint(normal()) : normal() * norm;
            if (kind == CLUSTERED)
                value = (row % 50 ? 0.3 * value + vectors[(row - row % 50) * t.dimension + i] : value) * pow(0.97, (double)i);
            vectors[row * t.dimension + i] = (float)value;
        }
    }
    t.vectors = vectors;
    for (int64_t row = 0; row < rows; ++row)
        bias[row] = between(0, 200) ? (float)normal() : between(0, 1) ? NAN : INFINITY;
    t.bias = between(0, 1) ? bias : NULL;
    if (!t.bias)
        free(bias);
    int64_t padded = (t.dimension + 7) / 8 * 8;
    for (int64_t end = 8 * between(1, 5); end < padded && t.stage_count + 1 < HIERSREC_MAX_STAGES; end += 8 * between(1, 5))
        ends[t.stage_count++] = end;
    ends[t.stage_count++] = padded;
    t.stage_ends = ends;
    encode(&t);
    return t;
}

static void release(hiersrec_table *t)
{
    free((void *)t->vectors);
    free((void *)t->bias);
    free((void *)t->codes);
    free((void *)t->scales);
    free((void *)t->suffix_norms);
    free((void *)t->quantization_errors);
    free((void *)t->stage_ends);
}

/* ---- comparing ---- */

typedef struct {
    float query[300];
    int64_t ranges[2][2], rest[3][2], skipped[3], covisited[3];
    float offsets[3];
    uint64_t bitmap[64];
} asked;

static int rising(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* `count` distinct rows, at most, rising. */
static int64_t random_rows(int64_t *rows, int64_t count, int64_t n)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i)
        rows[i] = between(0, n - 1);
    qsort(rows, (size_t)count, sizeof *rows, rising);
    for (int64_t i = 0; i < count; ++i)
        if (i == 0 || rows[i] != rows[kept - 1])
            rows[kept++] = rows[i];
    return kept;
}

static hiersrec_request random_request(const hiersrec_table *t, asked *a)
{
    hiersrec_request r = {.query = a->query, .ranges = a->ranges[0], .rest = a->rest[0]};
    double norm = between(0, 3) ? 1 : ldexp(1, (int)between(-140, 120));
    int64_t like = between(0, 2) ? -1 : between(0, t->n - 1);
    for (int64_t i = 0; i < t->dimension; ++i)
        a->query[i] = (float)(like < 0 ? normal() * norm : value_of(t, like, i));
    if (between(0, 20) == 0)
        a->query[between(0, t->dimension - 1)] = between(0, 1) ? NAN : INFINITY;
    int64_t cuts[2] = {between(0, t->n), between(0, t->n)};
    qsort(cuts, 2, sizeof *cuts, rising);
    int64_t all[3][2] = {{0, cuts[0]}, {cuts[0], cuts[1]}, {cuts[1], t->n}};
    if (between(0, 1)) { /* the middle first, then the others */
        memcpy(a->ranges[0], all[1], sizeof all[1]);
        memcpy(a->rest[0], all[0], sizeof all[0]);
        memcpy(a->rest[1], all[2], sizeof all[2]);
        r.range_count = 1;
        r.rest_count = 2;
    } else {
        memcpy(a->ranges[0], all[2], sizeof all[2]);
        memcpy(a->ranges[1], all[0], sizeof all[0]);
        r.range_count = 2;
    }
    if (between(0, 1)) {
        for (int i = 0; i < 64; ++i)
            a->bitmap[i] = random_bits() | (between(0, 1) ? random_bits() : 0);
        r.bitmap = a->bitmap;
    }
    r.skipped = a->skipped;
    r.skipped_count = random_rows(a->skipped, between(0, 3), t->n);
    r.covisited = a->covisited;
    r.covisited_count = random_rows(a->covisited, between(0, 3), t->n);
    r.offsets = a->offsets;
    for (int i = 0; i < 3; ++i)
        a->offsets[i] = (float)normal();
    return r;
}

/* Answer all requests, with outputs of their own. */
static void answer(const hiersrec_table *t, const hiersrec_request *asked, hiersrec_request *answered, int64_t count, int64_t k)
{
    void *workspace = allocate(hiersrec_workspace(t, count, k));
    for (int64_t i = 0; i < count; ++i) {
        answered[i] = asked[i];
        answered[i].scores = allocate(k * 4);
        answered[i].rows = allocate(k * 8);
    }
    hiersrec_topk(t, answered, count, k, workspace);
    free(workspace);
}

static bool same(const hiersrec_request *a, const hiersrec_request *b)
{
    return a->count == b->count && a->rows_scored == b->rows_scored &&
           memcmp(a->scores, b->scores, (size_t)a->count * 4) == 0 && memcmp(a->rows, b->rows, (size_t)a->count * 8) == 0;
}

static void forget(hiersrec_request *answered, int64_t count)
{
    for (int64_t i = 0; i < count; ++i) {
        free(answered[i].scores);
        free(answered[i].rows);
    }
}

/* A row's score as topk.h defines it. What is volatile is rounded, whatever the compiler would like to fuse. */
static float score_of(const hiersrec_table *t, const hiersrec_request *r, int64_t row)
{
    volatile float lane[B] = {0}, product;
    for (int64_t i = 0; i < t->dimension; ++i) {
        product = r->query[i] * (float)value_of(t, row, i);
        lane[i % B] = lane[i % B] + product;
    }
    for (int h = B / 2; h; h /= 2)
        for (int j = 0; j < h; ++j)
            lane[j] = lane[j] + lane[j + h];
    if (t->bias)
        lane[0] = lane[0] + t->bias[row];
    for (int64_t i = 0; i < r->covisited_count; ++i)
        if (r->covisited[i] == row)
            lane[0] = lane[0] + r->offsets[i];
    return lane[0];
}

/* Whether the results are in order, and the scores those of their rows. */
static bool sound(const hiersrec_table *t, const hiersrec_request *r)
{
    bool holds = true;
    for (int64_t i = 0; i < r->count; ++i) {
        holds &= r->scores[i] == score_of(t, r, r->rows[i]);
        if (i)
            holds &= r->scores[i] < r->scores[i - 1] || (r->scores[i] == r->scores[i - 1] && r->rows[i] > r->rows[i - 1]);
    }
    return holds;
}

static int64_t failures, compared, spared;

static void report(bool holds, const char *isa, const char *what, const hiersrec_table *t, uint64_t seed)
{
    ++compared;
    if (!holds && ++failures <= 20)
        printf("%s: %s differ: seed %llu, n %lld, dimension %lld\n", isa, what, (unsigned long long)seed,
               (long long)t->n, (long long)t->dimension);
}

static void compare(uint64_t seed)
{
    state = seed;
    hiersrec_table t = random_table(), plain = t;
    plain.codes = NULL;
    int64_t count = between(1, MOST_REQUESTS), k = between(0, 1) ? between(1, 20) : between(1, t.n + 3);
    int64_t rows = (t.n + B - 1) / B * B, padded = t.stage_ends[t.stage_count - 1];
    asked *buffers = allocate(MOST_REQUESTS * (int64_t)sizeof *buffers);
    hiersrec_request requests[MOST_REQUESTS], right[MOST_REQUESTS], found[MOST_REQUESTS];
    for (int64_t i = 0; i < count; ++i)
        requests[i] = random_request(&t, &buffers[i]);

    int16_t *codes[2] = {allocate(padded * 2), allocate(padded * 2)};
    int64_t *dots[2] = {allocate(rows * 8), allocate(rows * 8)};
    void *workspace = allocate(hiersrec_workspace(&t, 1, 1));
    hiersrec_use_isa("scalar");
    answer(&plain, requests, right, count, k);
    for (int64_t i = 0; i < count; ++i)
        report(sound(&t, &right[i]), "scalar", "scores and their definition", &t, seed);
    bool held = hiersrec_integer_dots(&t, requests[0].query, codes[0], dots[0], workspace);
    const char *isa;
    for (int at = 0; (isa = hiersrec_isa_at(at)); ++at) {
        hiersrec_use_isa(isa);
        bool now = hiersrec_integer_dots(&t, requests[0].query, codes[1], dots[1], workspace);
        report(now == held && (!held || (memcmp(codes[0], codes[1], (size_t)padded * 2) == 0 &&
                                         memcmp(dots[0], dots[1], (size_t)rows * 8) == 0)), isa, "dots", &t, seed);
        for (int coded = 0; coded < 2; ++coded) {
            answer(coded ? &t : &plain, requests, found, count, k);
            for (int64_t i = 0; i < count; ++i) {
                report(same(&found[i], &right[i]), isa, coded ? "results by codes" : "results", &t, seed);
                spared += found[i].bytes_read < right[i].bytes_read;
            }
            forget(found, count);
        }
    }
    forget(right, count);
    for (int i = 0; i < 2; ++i) {
        free(codes[i]);
        free(dots[i]);
    }
    free(workspace);
    free(buffers);
    release(&t);
}

int main(int argc, char **argv)
{
    int64_t tables = argc > 1 ? atoll(argv[1]) : 300;
    printf("instruction sets:");
    for (int at = 0; hiersrec_isa_at(at); ++at)
        printf(" %s", hiersrec_isa_at(at));
    printf("\n");
    for (int64_t seed = 1; seed <= tables; ++seed)
        compare((uint64_t)seed);
    printf("%lld tables, %lld comparisons, %lld answers that read less than a plain scan, %lld failures\n",
           (long long)tables, (long long)compared, (long long)spared, (long long)failures);
    return failures != 0;
}
