/* What an AES core is. Part of aes.c. */
#ifndef FASTPATH_AES_CORE_H
#define FASTPATH_AES_CORE_H

#include "aes.h"
#include "lanes.h"
#include "secret.h"

struct aes_core {
    const char *name;
    /* The S-box on each byte of a word (key expansion). */
    uint32_t (*substitute_word)(uint32_t word);
    /* Turns one round key of FIPS 197 into the form the core keeps. */
    void (*keep_round_key)(uint8_t round_key[AES_BLOCK]);
    void (*encrypt)(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks);
    void (*decrypt)(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks);
    /* `blocks` blocks are added to `state` and enciphered, one after the other (CBC). */
    void (*absorb)(const aes_key *key, uint8_t state[AES_BLOCK], const uint8_t *data,
                   size_t blocks);
    /* CMACs of at most `width` lanes, those with the most blocks first, of as many rounds. */
    void (*run)(cipher_lane *const *lanes, unsigned count);
    unsigned width;
};

#endif
