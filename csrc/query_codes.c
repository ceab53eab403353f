/* A query's codes and passes. What they are for, and why their bounds hold, is in query_codes.h. */
#include "query_codes.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

enum { LARGEST_CODE = 127 * 128 };

INLINE float up(double value)
{
    return nextafterf((float)value, FLT_MAX);
}

/* A query's code for one dimension as 128 * coarse + fine, both int8. */
INLINE void set_code(query_codes *q, int64_t i, int32_t code)
{
    int32_t coarse = (code + 64 + 128 * 128) / 128 - 128; /* rounds half up, of negative codes too */
    int32_t parts[2] = {coarse, code - 128 * coarse};
    query_group *groups[2] = {&q->coarse_groups[i / 4], &q->fine_groups[i / 4]};
    for (int part = 0; part < 2; ++part) {
        groups[part]->codes[i % 4] = (int8_t)parts[part];
        (i % 2 ? groups[part]->odd : groups[part]->even)[i % 4 / 2] = (int16_t)parts[part];
    }
}

bool hiersrec_encode_query(const hiersrec_table *t, const float *query, query_codes *q)
{
    int64_t d = t->dimension, rows = (t->n + LANES - 1) / LANES * LANES;
    double largest = 0, squares = 0;
    for (int64_t i = 0; i < d; ++i) {
        double size = fabs((double)query[i]);
        largest = size > largest ? size : largest;
        squares += size * size; /* NaN, where a value is */
    }
    double length = sqrt(squares);
    if (!(largest >= 1e-30 && length * (double)t->max_norm <= 1e37 && length <= 1e30))
        return false;

    double step = largest / LARGEST_CODE, steps = LARGEST_CODE / largest;
    double slack = ((double)d / 16 + 32) * 0x1p-24 * length * 128 * sqrt((double)d);
    /* squares in the dimensions so far: of the query, and of what its codes, or the coarse ones alone, leave out */
    double head = 0, left_out = 0, coarse_left_out = 0;
    q->passes = 0;
    for (int64_t at = 0, i = 0; at < t->stage_count; ++at) {
        int64_t begin = at ? t->stage_ends[at - 1] : 0, end = t->stage_ends[at];
        int32_t coarse_sum = 0, fine_sum = 0;
        for (; i < end; ++i) {
            double value = i < d ? query[i] : 0;
            int32_t code = (int32_t)lrint(value * steps);
            set_code(q, i, code);
            int32_t coarse = q->coarse_groups[i / 4].codes[i % 4];
            coarse_sum += coarse;
            fine_sum += code - 128 * coarse;
            head += value * value;
            left_out += (value - step * code) * (value - step * code);
            coarse_left_out += (value - step * 128 * coarse) * (value - step * 128 * coarse);
        }
        double rest = 0;
        for (int64_t j = end; j < d; ++j)
            rest += (double)query[j] * query[j];
        for (int part = at ? 1 : 0; part < 2; ++part) { /* of the first stage, the leading and the trailing 4 bits */
            bool halves = at == 0, leading = part == 0;
            int64_t bytes = halves ? (end - begin) / 2 : end - begin; /* of a row */
            int32_t excess = !halves ? 128 : leading ? 120 : 8; /* stored codes are too high by that, once shifted */
            double bound = sqrt(head) * t->quantization_errors[at + part] + slack, code_norm = 128 * sqrt((double)end);
            pass *coarse = &q->coarse[q->passes], *fine = &q->fine[q->passes];
            *coarse = (pass){
                .codes = t->codes + rows * (begin + (halves && !leading ? bytes : 0)),
                .block_bytes = LANES * bytes,
                .halves = halves,
                .shift = leading ? 4 : 0,
                .groups = (end - begin) / 4,
                .query = q->coarse_groups + begin / 4,
                .correction = -excess * coarse_sum,
                .step = (float)(128 * step),
                .slack = up((bound + sqrt(coarse_left_out) * code_norm) * (1 + 1e-9)), /* for the roundings here, in double */
                .tiny = (float)(d + 64) * 0x1p-149f,
                .reach = up(sqrt(rest) * (1 + 1e-9)),
                .scales = t->scales,
                .suffix_norms = at + 1 < t->stage_count ? t->suffix_norms + at * rows : NULL,
                .bias = t->bias,
            };
            *fine = *coarse;
            fine->query = q->fine_groups + begin / 4;
            fine->correction = -excess * fine_sum;
            q->slack = up((bound + sqrt(left_out) * code_norm) * (1 + 1e-9));
            ++q->passes;
        }
    }
    q->step = (float)step;
    return true;
}

bool hiersrec_integer_dots(const hiersrec_table *table, const float *query, int16_t *codes, int64_t *dots, void *workspace)
{
    const kernels *isa = hiersrec_kernels();
    int64_t dimensions = table->stage_ends[table->stage_count - 1];
    query_codes q = {.coarse_groups = workspace};
    q.fine_groups = q.coarse_groups + dimensions / 4;
    if (!hiersrec_encode_query(table, query, &q))
        return false;
    for (int64_t i = 0; i < dimensions; ++i)
        codes[i] = (int16_t)(128 * q.coarse_groups[i / 4].codes[i % 4] + q.fine_groups[i / 4].codes[i % 4]);
    for (int64_t block = 0; block * LANES < table->n; ++block) {
        _Alignas(64) int32_t sums[2][LANES];
        uint32_t blocks[1] = {(uint32_t)block};
        uint16_t lanes[1] = {0xffff};
        block_list coarse = {blocks, lanes, sums[0], 1, false}, fine = {blocks, lanes, sums[1], 1, false};
        for (int64_t at = 0; at < q.passes; ++at) {
            isa->add(&q.coarse[at], at == 0, &coarse);
            isa->add(&q.fine[at], at == 0, &fine);
        }
        for (int64_t i = 0; i < LANES; ++i)
            dots[block * LANES + i] = 128 * (int64_t)sums[0][i] + sums[1][i];
    }
    return true;
}
