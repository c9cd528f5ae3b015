/* DES and Triple DES (FIPS 46-3, SP 800-67) and the MACs built on them.
 *
 * No path indexes memory with a secret or branches on one. A "core" is one way to compute the 16
 * rounds; a schedule remembers the core it was made for, so that several can live side by side.
 */
#ifndef FASTPATH_DES_H
#define FASTPATH_DES_H

#include <stddef.h>
#include <stdint.h>

#define DES_BLOCK 8
#define DES_ROUNDS 16

struct des_core;

/* Three DES schedules; of a double-length key the third equals the first. */
typedef struct {
    uint64_t round_keys[3][DES_ROUNDS];
    const struct des_core *core;
} tdes_key;

/* Once per process, before anything else. */
void des_startup(void);

/* Whether keys scheduled from now on use the portable core although a faster one would run. */
void des_force_portable(int portable);

/* The name of the core that keys scheduled now would use. */
const char *des_implementation(void);

/* `length`: 16 or 24 bytes. Parity bits are ignored. */
void tdes_schedule(tdes_key *key, const uint8_t *bytes, size_t length);

/* `out` may be `in`. */
void tdes_ecb(const tdes_key *key, int decrypt, const uint8_t *in, uint8_t *out, size_t blocks);

/* `out` may be `in`; `chain` is the initial value. */
void tdes_cbc(const tdes_key *key, int decrypt, const uint8_t chain[DES_BLOCK], const uint8_t *in,
              uint8_t *out, size_t blocks);

/* ISO/IEC 9797-1 MAC algorithm 3 with padding method 1; an empty message is one block of zeros. */
void des_retail_mac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t mac[DES_BLOCK]);

/* CMAC with TDEA, SP 800-38B. */
void tdes_cmac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t mac[DES_BLOCK]);

#endif
