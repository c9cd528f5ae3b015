/* DES and Triple DES (FIPS 46-3, SP 800-67) and the MACs built on them.
 *
 * No path indexes memory with a secret or branches on one. A "path" is one way to compute it on some
 * processors; a schedule remembers the path it was made for, so that several can live side by side.
 */
#ifndef FASTPATH_DES_H
#define FASTPATH_DES_H

#include <stddef.h>
#include <stdint.h>

#define DES_BLOCK 8
#define DES_ROUNDS 16

struct des_path;

/* Three DES schedules; of a double-length key the third equals the first. */
typedef struct {
    uint64_t round_keys[3][DES_ROUNDS];
    uint64_t whole[3]; /* the keys themselves, first byte lowest: what bit slices are made of */
    const struct des_path *path;
} tdes_key;

/* ISO/IEC 9797-1 MAC algorithms: CBC with Triple DES, and the retail MAC. */
enum des_mac { DES_MAC_1 = 1, DES_MAC_3 = 3 };
/* How a message is filled to whole blocks: with zeros if needed; with a one bit, then zeros. */
enum des_padding { DES_PAD_1 = 1, DES_PAD_2 = 2 };

/* One message of a batch. */
typedef struct {
    const tdes_key *key;
    const uint8_t *data;
    size_t size;
    uint8_t *mac; /* DES_BLOCK bytes */
    enum des_padding padding;
} des_message;

/* Once per process, before anything else. */
void des_startup(void);

/* The n-th path that runs on this processor, the fastest first; NULL behind the last. */
const char *des_path_name(unsigned n);

/* Keys scheduled from now on use the n-th path. */
void des_use_path(unsigned n);

/* The name of the path that keys scheduled now would use. */
const char *des_implementation(void);

/* `length`: 16 or 24 bytes. Parity bits are ignored. */
void tdes_schedule(tdes_key *key, const uint8_t *bytes, size_t length);

/* `out` may be `in`. */
void tdes_ecb(const tdes_key *key, int decrypt, const uint8_t *in, uint8_t *out, size_t blocks);

/* `chain` is the initial value; `out` may not be `in`. */
void tdes_cbc(const tdes_key *key, int decrypt, const uint8_t chain[DES_BLOCK], const uint8_t *in,
              uint8_t *out, size_t blocks);

/* The MAC of each of `count` messages, which may differ in key, length and path. Many at once are
 * far faster than one. With padding method 1 an empty message is one block of zeros. */
void des_macs(const des_message *messages, size_t count, enum des_mac algorithm);

/* CMAC with TDEA, SP 800-38B. */
void tdes_cmac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t mac[DES_BLOCK]);

#endif
