/* AES (FIPS 197) and CMAC (SP 800-38B) on it. As in des.h: no memory indexed by a secret, no branch
 * on one, and a schedule remembers the core it was made for. */
#ifndef FASTPATH_AES_H
#define FASTPATH_AES_H

#include <stddef.h>
#include <stdint.h>

#define AES_BLOCK 16
#define AES_ROUNDS_MAX 14

struct aes_core;

typedef struct {
    uint8_t round_keys[AES_ROUNDS_MAX + 1][AES_BLOCK];
    unsigned rounds;
    const struct aes_core *core;
} aes_key;

typedef struct {
    aes_key key;
    uint8_t whole[AES_BLOCK];   /* K1: the last block is complete */
    uint8_t partial[AES_BLOCK]; /* K2: the last block was padded */
} aes_cmac_key;

/* Once per process, before anything else. */
void aes_startup(void);

/* Whether keys scheduled from now on use the portable core although a faster one would run. */
void aes_force_portable(int portable);

/* The name of the core that keys scheduled now would use. */
const char *aes_implementation(void);

/* `length`: 16, 24 or 32 bytes. */
void aes_schedule(aes_key *key, const uint8_t *bytes, size_t length);

/* Each of `blocks` blocks by itself (ECB); `out` may be `in`. Many at once are faster than one. */
void aes_encrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks);
void aes_decrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks);

/* What a CMAC over one whole block needs: the block plus this subkey, enciphered under this key. */
static inline const uint8_t *block_subkey(const aes_cmac_key *key)
{
    return key->whole;
}

static inline const aes_key *block_key(const aes_cmac_key *key)
{
    return &key->key;
}

/* One message of a batch. */
typedef struct {
    const aes_cmac_key *key;
    const uint8_t *data;
    size_t size;
    uint8_t *mac; /* AES_BLOCK bytes */
} aes_message;

void aes_cmac_schedule(aes_cmac_key *key, const uint8_t *bytes, size_t length);

/* The CMAC of each of `count` messages, which may differ in key, length and core. */
void aes_cmacs(const aes_message *messages, size_t count);

#endif
