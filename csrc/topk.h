/*
 * Top-k over ranges of rows: the contract of the ranking kernel.
 *
 * The result
 *   Every row of a table that lies in one of a request's ranges or of its rest, or that is covisited, and that the filters let
 *   through, is scored against a query. The k best are written best first:
 *
 *       higher score first, then lower row.
 *
 *   A row whose score is NaN never ranks. Infinities are ordinary scores, and -0.0 equals 0.0. Fewer than k rows may
 *   rank: `count` says how many are valid. There are no sentinels and no padding; what lies beyond is unspecified.
 *
 * Scores are reproducible bit by bit
 *   16 lanes; lane j starts at 0 and adds query[i] * row[i] for i = j, j + 16, j + 32, ... in that order, product and
 *   sum each rounded to float32 (no fused multiply-add). Then lane j += lane j + h for h = 8, 4, 2, 1. Lane 0 is the dot
 *   product. bias[row], if there is one, is added, then the score offset of a covisited row, each rounded to float32.
 *   Sixteen lanes are one AVX-512 register, two of AVX2, four of NEON: every instruction set keeps this order at full speed.
 *
 * Codes make it faster and change nothing
 *   A table may carry an int8 copy of its rows. Then rows are first bounded from above by their codes, and only those
 *   that may still be among the k best are scored. Results are those of a scan of every row, bit by bit: the bound is
 *   proven (see "The bound" in query_codes.h), whatever the values. Only rows_scored and bytes_read tell the difference.
 *
 *   Row r is about scales[r] * code, code in -127..127, stored as code + 128. Blocks of 16 rows are interleaved by groups
 *   of 4 dimensions, so that one instruction advances 16 rows: byte 64 g + 4 j + i of a block is dimension 4 g + i of its
 *   row j. The dimensions are cut into stages, which stand one after the other, each for all blocks. The first stage is
 *   itself cut in two: the leading 4 bits of its codes for all blocks, then the trailing 4 bits; there, byte 64 p + 4 j + i
 *   of a block holds dimension 8 p + i of row j in its low half and dimension 8 p + 4 + i in its high half. A scan reads the
 *   leading bits of the first dimensions of every block, and more only where the bound is not yet below the threshold.
 *
 * Layout
 *   vectors     [n, dimension], rows without gaps. Any alignment of the element type is correct.
 *   stage_ends  [stage_count]: rising multiples of 8; the last is the dimension rounded up to a multiple of 8.
 *   codes       [n rounded up to blocks of 16] x stage_ends[last] bytes. Code 0 where row or dimension is padding.
 *   scales      [blocks * 16] as bfloat16: the leading 16 bits of a float32; 0 for padding
 *   suffix_norms [stage_count - 1, blocks * 16] as bfloat16: length of a row's dimensions from stage_ends[s] on, rounded up
 *   quantization_errors  [1 + stage_count]: the largest length, over all rows, of row / scale - code in the dimensions
 *               below stage_ends[s], rounded up; before that, the largest length in the first stage where the trailing 4 bits
 *               of what is stored are taken for 8
 *   bias        [n]; [blocks * 16] in a table with codes.
 *   ranges      [range_count, 2]: pairs [start, stop) of rows, within the table, disjoint; empty ones are allowed.
 *   bitmap      one bit a row: row r may rank where bitmap[r / 64] >> (r % 64) & 1.
 *
 * Who owns what
 *   The caller owns every buffer and keeps it alive and unchanged during the call. Nothing is allocated, nothing is
 *   kept after the call. Memory-mapped read-only tables are fine: nothing but outputs and workspace is written. Any number
 *   of threads may call at once with outputs and workspaces of their own. The only global state is the choice of
 *   instruction set.
 *
 * Who checks what
 *   The caller has checked the arguments; the kernel trusts them. hiersrec_sdk/_kernel.pyx checks at every call what memory
 *   safety needs, whatever Python has checked before: lengths, alignment, the limits of n, dimension and stages, k >= 1,
 *   ranges and rest with 0 <= start <= stop <= n, covisited and skipped rows that rise within [0, n).
 *   No other value is taken for a place in memory, nor turned into an integer that it may not fit: vectors, biases,
 *   codes, scales, suffix norms, quantization errors, the largest norm, queries and offsets may hold any bits, NaN and
 *   infinities included, and may change during the call, as a mapped file may. Ranges may overlap. All that can do is
 *   to give wrong results.
 *
 * Floats round to nearest, and subnormals are kept: the defaults of C.
 *
 * C11, without Python.h, malloc or threads.
 */
#ifndef HIERSREC_TOPK_H
#define HIERSREC_TOPK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HIERSREC_BLOCK = 16, HIERSREC_MAX_STAGES = 4, HIERSREC_MAX_DIMENSION = 65536 };
#define HIERSREC_MAX_ROWS ((int64_t)1 << 36) /* blocks are counted in 32 bits */

/* A table of rows. [in] throughout. */
typedef struct {
    const float *vectors;
    int64_t n;              /* 1 to HIERSREC_MAX_ROWS */
    int64_t dimension;      /* 1 to HIERSREC_MAX_DIMENSION */
    const float *bias;      /* or NULL */
    const uint8_t *codes;   /* or NULL: a plain scan; then what follows is not read */
    const uint16_t *scales;
    const uint16_t *suffix_norms;
    const float *quantization_errors;
    const int64_t *stage_ends;
    int64_t stage_count; /* 1 to HIERSREC_MAX_STAGES */
    float max_norm;      /* length of the longest row, rounded up */
} hiersrec_table;

/* One query, which rows rank for it, and its results. */
typedef struct {
    const float *query;        /* [in] [dimension] */
    const int64_t *ranges;     /* [in] [range_count, 2], scanned in this order: the more promising ones first */
    int64_t range_count;       /* [in] may be 0 */
    const int64_t *rest;       /* [in] [rest_count, 2], rising: further ranges, scanned after those above */
    int64_t rest_count;        /* [in] may be 0 */
    const uint64_t *bitmap;    /* [in] [ceil(n / 64)], or NULL: every row may rank */
    const int64_t *skipped;    /* [in] [skipped_count] rising: rows that do not rank */
    int64_t skipped_count;     /* [in] may be 0 */
    const int64_t *covisited;  /* [in] [covisited_count] rising: rows that rank whether or not a range holds them */
    const float *offsets;      /* [in] [covisited_count]: added to their scores */
    int64_t covisited_count;   /* [in] may be 0 */
    float *scores;             /* [out] [k] best first */
    int64_t *rows;             /* [out] [k] */
    int64_t count;             /* [out] valid results, 0 to k */
    int64_t rows_scored;       /* [out] rows that were looked at, by their codes or their vectors */
    int64_t bytes_read;        /* [out] bytes of vectors, codes and their tables, and biases that this took */
} hiersrec_request;

/* Bytes of workspace that hiersrec_topk needs. */
int64_t hiersrec_workspace(const hiersrec_table *table, int64_t requests, int64_t k);

/*
 * Answer requests.
 *
 *   table       [in]
 *   requests    [in, out] [count]
 *   k           [in]  >= 1; no more results than this are written for each request
 *   workspace   hiersrec_workspace(table, count, k) bytes, aligned to 64
 *
 * The better the rows in the ranges, the higher the threshold that they give and the less is read of the rest. Several
 * requests share the reading of their rest.
 */
void hiersrec_topk(const hiersrec_table *table, hiersrec_request *requests, int64_t count, int64_t k, void *workspace);

/* The instruction set in use, and those that this processor has, best first; NULL beyond the last. */
const char *hiersrec_isa(void);
const char *hiersrec_isa_at(int index);

/* Use the instruction set `name`; false if it is not there. Not while another thread is in hiersrec_topk. */
bool hiersrec_use_isa(const char *name);

#ifdef __cplusplus
}
#endif

#endif
