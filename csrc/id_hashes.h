/*
 * The hashes by which string ids are found: BLAKE2b (RFC 7693) of the UTF-8, with a digest of 8 bytes, little-endian.
 */
#ifndef HIERSREC_ID_HASHES_H
#define HIERSREC_ID_HASHES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The hash of each of `count` strings.
 *
 *   data     [in]  the strings
 *   offsets  [in]  [count + 1]: where each begins in `data`, and ends; rising, and checked by the caller
 *   hashes   [out] [count]
 */
void hiersrec_hash_strings(const uint8_t *data, const int64_t *offsets, int64_t count, uint64_t *hashes);

#ifdef __cplusplus
}
#endif

#endif
