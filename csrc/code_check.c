#include "code_check.h"

#include <math.h>
#include <string.h>

enum { BLOCK = HIERSREC_BLOCK, WIDTH = 8 };

/* Sums over dimensions, in 8 lanes for each row of a block. */
typedef double sums[BLOCK][WIDTH];

static float from_bfloat(uint16_t leading)
{
    uint32_t bits = (uint32_t)leading << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The stored codes of 8 dimensions of a block's rows, from dimension `at` on, which lies in `stage`. */
static void unpack(const hiersrec_table *table, int64_t block, int stage, int64_t at, uint8_t codes[BLOCK][WIDTH])
{
    int64_t rows = (table->n + BLOCK - 1) / BLOCK * BLOCK;
    int64_t begin = stage ? table->stage_ends[stage - 1] : 0, width = table->stage_ends[stage] - begin;
    if (stage) {
        const uint8_t *group = table->codes + rows * begin + block * BLOCK * width + BLOCK * (at - begin);
        for (int j = 0; j < BLOCK; ++j) {
            memcpy(codes[j], group + 4 * j, 4);
            memcpy(codes[j] + 4, group + 4 * BLOCK + 4 * j, 4);
        }
        return;
    }
    const uint8_t *leading = table->codes + (block * BLOCK * width + BLOCK * at) / 2, *trailing = leading + rows * width / 2;
    for (int j = 0; j < BLOCK; ++j)
        for (int i = 0; i < 4; ++i) {
            uint8_t high = leading[4 * j + i], low = trailing[4 * j + i];
            codes[j][i] = (uint8_t)(high << 4 | (low & 0x0f));
            codes[j][4 + i] = (uint8_t)((high & 0xf0) | low >> 4);
        }
}

static double total(const double lanes[WIDTH])
{
    double sum = 0;
    for (int i = 0; i < WIDTH; ++i)
        sum += lanes[i];
    return sum;
}

/* Bit j: row j of the block is wrong. */
static uint32_t wrong_rows(const hiersrec_table *table, int64_t block, int64_t count)
{
    int64_t d = table->dimension, rows = (table->n + BLOCK - 1) / BLOCK * BLOCK, stages = table->stage_count;
    const float *vectors = table->vectors + block * BLOCK * d;
    sums error = {{0}}, leading_error = {{0}};
    double squares[HIERSREC_MAX_STAGES][BLOCK] = {{0}}, scale[BLOCK];
    uint32_t wrong = 0;
    for (int64_t j = 0; j < count; ++j) {
        scale[j] = from_bfloat(table->scales[block * BLOCK + j]);
        wrong |= (uint32_t) !(scale[j] >= 0 && scale[j] < (double)INFINITY) << j;
    }
    for (int stage = 0; stage < stages; ++stage) {
        sums norm = {{0}};
        for (int64_t at = stage ? table->stage_ends[stage - 1] : 0; at < table->stage_ends[stage]; at += WIDTH) {
            uint8_t codes[BLOCK][WIDTH];
            unpack(table, block, stage, at, codes);
            int64_t width = d - at < WIDTH ? d - at : WIDTH; /* what is beyond d is padding */
            for (int64_t j = 0; j < count; ++j) {
                float row[WIDTH] = {0};
                double exact[WIDTH], e[WIDTH];
                memcpy(row, vectors + j * d + at, (size_t)width * sizeof *row);
                for (int i = 0; i < WIDTH; ++i)
                    norm[j][i] += (double)row[i] * row[i];
                if (!(scale[j] > 0))
                    continue;
                for (int i = 0; i < WIDTH; ++i)
                    exact[i] = row[i] / scale[j];
                for (int i = 0; i < WIDTH; ++i)
                    e[i] = exact[i] - (codes[j][i] - 128);
                for (int64_t i = width; i < WIDTH; ++i)
                    e[i] = 0;
                for (int i = 0; i < WIDTH; ++i)
                    error[j][i] += e[i] * e[i];
                if (stage)
                    continue;
                for (int i = 0; i < WIDTH; ++i)
                    e[i] = exact[i] - ((codes[j][i] & 0xf0) + 8 - 128);
                for (int64_t i = width; i < WIDTH; ++i)
                    e[i] = 0;
                for (int i = 0; i < WIDTH; ++i)
                    leading_error[j][i] += e[i] * e[i];
            }
        }
        for (int64_t j = 0; j < count; ++j) {
            double most = table->quantization_errors[1 + stage], lead = table->quantization_errors[0];
            squares[stage][j] = total(norm[j]);
            wrong |= (uint32_t) !(total(error[j]) <= most * most) << j;
            wrong |= (uint32_t) !(total(leading_error[j]) <= lead * lead) << j;
        }
    }
    double longest = table->max_norm;
    for (int64_t j = 0; j < count; ++j) {
        double rest = 0;
        for (int64_t stage = stages - 1; stage > 0; --stage) {
            double bound = from_bfloat(table->suffix_norms[(stage - 1) * rows + block * BLOCK + j]);
            rest += squares[stage][j];
            wrong |= (uint32_t) !(bound >= 0 && rest <= bound * bound) << j;
        }
        double whole = rest + squares[0][j];
        wrong |= (uint32_t) !(whole <= longest * longest && (scale[j] > 0 || whole == 0)) << j;
    }
    return wrong;
}

int64_t hiersrec_first_wrong_codes(const hiersrec_table *table, int64_t start, int64_t stop)
{
    for (; start < stop; start += BLOCK) {
        uint32_t wrong = wrong_rows(table, start / BLOCK, stop - start < BLOCK ? stop - start : BLOCK);
        for (int j = 0; wrong; ++j, wrong >>= 1)
            if (wrong & 1)
                return start + j;
    }
    return -1;
}
