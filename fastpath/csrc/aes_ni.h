/* AES by the processor's own instructions (x86-64). Part of aes.c. */
#ifndef FASTPATH_AES_NI_H
#define FASTPATH_AES_NI_H

#include "aes_core.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define AES_HAVE_NI 1
#include <immintrin.h>
#define NI __attribute__((target("aes,sse4.1")))
#define NI_TOGETHER 8 /* independent blocks that hide the latency of a round */

static NI uint32_t ni_substitute_word(uint32_t word)
{
    __m128i words = _mm_set1_epi32((int)word);
    return (uint32_t)_mm_cvtsi128_si32(_mm_aeskeygenassist_si128(words, 0));
}

static void ni_keep_round_key(uint8_t round_key[AES_BLOCK])
{
    (void)round_key; /* as FIPS 197 has it */
}

static inline NI __m128i ni_load(const uint8_t *from)
{
    return _mm_loadu_si128((const __m128i *)from);
}

static inline NI void ni_store(uint8_t *to, __m128i block)
{
    _mm_storeu_si128((__m128i *)to, block);
}

static inline NI void ni_encrypt_group(const aes_key *key, __m128i *block, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        block[i] = _mm_xor_si128(block[i], ni_load(key->round_keys[0]));
    for (unsigned r = 1; r < key->rounds; r++) {
        __m128i round_key = ni_load(key->round_keys[r]);
        for (unsigned i = 0; i < count; i++)
            block[i] = _mm_aesenc_si128(block[i], round_key);
    }
    for (unsigned i = 0; i < count; i++)
        block[i] = _mm_aesenclast_si128(block[i], ni_load(key->round_keys[key->rounds]));
}

static NI void ni_encrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks)
{
    __m128i group[NI_TOGETHER];
    for (; blocks >= NI_TOGETHER; blocks -= NI_TOGETHER) {
        for (unsigned i = 0; i < NI_TOGETHER; i++)
            group[i] = ni_load(in + AES_BLOCK * i);
        ni_encrypt_group(key, group, NI_TOGETHER);
        for (unsigned i = 0; i < NI_TOGETHER; i++)
            ni_store(out + AES_BLOCK * i, group[i]);
        in += AES_BLOCK * NI_TOGETHER;
        out += AES_BLOCK * NI_TOGETHER;
    }
    for (; blocks; blocks--, in += AES_BLOCK, out += AES_BLOCK) {
        group[0] = ni_load(in);
        ni_encrypt_group(key, group, 1);
        ni_store(out, group[0]);
    }
}

static NI void ni_decrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks)
{
    __m128i inverse[AES_ROUNDS_MAX];
    for (unsigned r = 1; r < key->rounds; r++)
        inverse[r] = _mm_aesimc_si128(ni_load(key->round_keys[r]));
    for (; blocks; blocks--, in += AES_BLOCK, out += AES_BLOCK) {
        __m128i block = _mm_xor_si128(ni_load(in), ni_load(key->round_keys[key->rounds]));
        for (unsigned r = key->rounds - 1; r > 0; r--)
            block = _mm_aesdec_si128(block, inverse[r]);
        ni_store(out, _mm_aesdeclast_si128(block, ni_load(key->round_keys[0])));
    }
    wipe(inverse, sizeof inverse);
}

static NI void ni_absorb(const aes_key *key, uint8_t state[AES_BLOCK], const uint8_t *data,
                         size_t blocks)
{
    __m128i chain = ni_load(state);
    for (; blocks; blocks--, data += AES_BLOCK) {
        chain = _mm_xor_si128(chain, ni_load(data));
        ni_encrypt_group(key, &chain, 1);
    }
    ni_store(state, chain);
}

static NI void ni_run(cipher_lane *const *lanes, unsigned count)
{
    static const uint8_t nothing[AES_BLOCK];
    const uint8_t *keys[NI_TOGETHER], *blocks[NI_TOGETHER];
    __m128i state[NI_TOGETHER];
    size_t steps = lane_blocks(lanes[0]);
    unsigned running = 0, rounds = ((const aes_key *)lanes[0]->key)->rounds;
    for (unsigned i = 0; i < NI_TOGETHER; i++) {
        keys[i] = ((const aes_key *)lanes[i < count ? i : 0]->key)->round_keys[0];
        blocks[i] = nothing;
    }
    for (size_t step = 0; step < steps; step++) {
        unsigned started = lanes_started(lanes, count, running, step, steps);
        for (unsigned i = running; i < NI_TOGETHER; i++) /* begins now, or has not yet */
            state[i] = _mm_setzero_si128();
        for (unsigned i = 0; i < started; i++)
            blocks[i] = lane_block(lanes[i], step, steps, AES_BLOCK);
        running = started;
#pragma GCC unroll 8
        for (unsigned i = 0; i < NI_TOGETHER; i++)
            state[i] = _mm_xor_si128(_mm_xor_si128(state[i], ni_load(blocks[i])), ni_load(keys[i]));
        for (unsigned r = 1; r < rounds; r++)
#pragma GCC unroll 8
            for (unsigned i = 0; i < NI_TOGETHER; i++)
                state[i] = _mm_aesenc_si128(state[i], ni_load(keys[i] + AES_BLOCK * r));
#pragma GCC unroll 8
        for (unsigned i = 0; i < NI_TOGETHER; i++)
            state[i] = _mm_aesenclast_si128(state[i], ni_load(keys[i] + AES_BLOCK * rounds));
    }
    for (unsigned i = 0; i < count; i++)
        ni_store(lanes[i]->result, state[i]);
    wipe(state, sizeof state);
}

static const struct aes_core NI_CORE = {
    "aes-ni", ni_substitute_word, ni_keep_round_key, ni_encrypt, ni_decrypt, ni_absorb, ni_run,
    NI_TOGETHER,
};

static int processor_has_ni(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("sse4.1");
}
#else
#define AES_HAVE_NI 0
#endif

#endif
