/* Four messages, each under its own key, through the portable AES core. Part of aes.c. */
#ifndef FASTPATH_AES_PORTABLE_LANES_H
#define FASTPATH_AES_PORTABLE_LANES_H

#include "aes_portable.h"

/* Round keys of four lanes side by side in each plane. */
static void portable_join_keys(uint64_t joined[AES_ROUNDS_MAX + 1][8], cipher_lane *const *lanes,
                               unsigned count, unsigned rounds)
{
    memset(joined, 0, (AES_ROUNDS_MAX + 1) * sizeof joined[0]);
    for (unsigned i = 0; i < count; i++) {
        const aes_key *key = lanes[i]->key;
        for (unsigned r = 0; r <= rounds; r++)
            for (unsigned p = 0; p < 8; p++) {
                const uint8_t *plane = &key->round_keys[r][2 * p];
                joined[r][p] |= (uint64_t)(plane[0] | plane[1] << 8) << (16 * i);
            }
    }
}

static void portable_run(cipher_lane *const *lanes, unsigned count)
{
    uint64_t keys[AES_ROUNDS_MAX + 1][8], state[8] = {0}, block[8];
    uint8_t blocks[PORTABLE_TOGETHER * AES_BLOCK] = {0};
    size_t steps = lane_blocks(lanes[0]);
    unsigned running = 0, rounds = ((const aes_key *)lanes[0]->key)->rounds;
    portable_join_keys(keys, lanes, count, rounds);
    for (size_t step = 0; step < steps; step++) {
        uint64_t kept = running ? ~0ull >> (64 - 16 * running) : 0;
        running = lanes_started(lanes, count, running, step, steps);
        for (unsigned i = 0; i < running; i++)
            memcpy(blocks + AES_BLOCK * i, lane_block(lanes[i], step, steps, AES_BLOCK), AES_BLOCK);
        load_planes(block, blocks, running);
        for (int p = 0; p < 8; p++)
            state[p] = (state[p] & kept) ^ block[p] ^ keys[0][p];
        for (unsigned r = 1; r <= rounds; r++) {
            substitute_bytes(state);
            shift_rows(state);
            if (r < rounds)
                mix_columns(state);
            for (int p = 0; p < 8; p++)
                state[p] ^= keys[r][p];
        }
    }
    store_planes(blocks, state, count);
    for (unsigned i = 0; i < count; i++)
        memcpy(lanes[i]->result, blocks + AES_BLOCK * i, AES_BLOCK);
    wipe(keys, sizeof keys);
    wipe(state, sizeof state);
    wipe(block, sizeof block);
    wipe(blocks, sizeof blocks);
}

static const struct aes_core PORTABLE = {
    "portable", portable_substitute_word, portable_keep_round_key,
    portable_encrypt, portable_decrypt, portable_absorb, portable_run, PORTABLE_TOGETHER,
};

#endif
