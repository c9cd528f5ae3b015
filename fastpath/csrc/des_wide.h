/* The wide DES core: AVX-512 VBMI and BITALG. Part of des.c.
 *
 * A half is kept expanded: byte i holds the six inputs of S-box i. A box has 64 entries, as many as
 * a register has bytes, so one VPERMB is one look-up without memory. Each of a box's four outputs
 * feeds one or two inputs of the next round, six in all; WIDE_POSITION gives every input a place in
 * its byte such that the six places one box feeds all differ (an edge colouring of the graph box ->
 * box that P and E make). Then a table entry carries each output already at its places, a mask per
 * box picks what belongs to which byte, and P and E cost nothing more.
 */
#ifndef FASTPATH_DES_WIDE_H
#define FASTPATH_DES_WIDE_H

#include "des_core.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DES_HAVE_WIDE 1
#include <immintrin.h>
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512bitalg")))

static const uint8_t WIDE_POSITION[8][6] = {
    {0, 4, 5, 2, 3, 1}, {5, 2, 3, 4, 1, 0}, {3, 1, 0, 2, 5, 4}, {2, 3, 4, 0, 1, 5},
    {2, 3, 0, 4, 1, 5}, {2, 3, 1, 4, 0, 5}, {5, 0, 3, 4, 2, 1}, {1, 0, 4, 2, 3, 5},
};
#define WIDE_USED 0x3F3F3F3F3F3F3F3Full

static uint8_t wide_box[8][64];
static uint64_t wide_box_mask[8];
static uint8_t wide_key_choice[DES_ROUNDS][64];
static uint8_t wide_load_choice[2][64];
static uint8_t wide_store_choice[64];
static uint64_t wide_store_left;

static void fill_wide(void)
{
    uint8_t initial[65];
    for (unsigned n = 0; n < 64; n++)
        initial[FINAL_PERMUTATION[n]] = (uint8_t)low_first(n + 1);
    memset(wide_box, 0, sizeof wide_box);
    memset(wide_box_mask, 0, sizeof wide_box_mask);
    for (unsigned to = 0; to < 8; to++)
        for (unsigned input = 0; input < 6; input++) {
            unsigned place = WIDE_POSITION[to][input], half_bit = expanded(to, input);
            unsigned output = ROUND_PERMUTATION[half_bit - 1] - 1u, from = output / 4;
            wide_box_mask[from] |= 1ull << (8 * to + place);
            for (unsigned index = 0; index < 64; index++) {
                unsigned inputs = 0;
                for (unsigned k = 0; k < 6; k++)
                    inputs |= (index >> WIDE_POSITION[from][k] & 1) << k;
                unsigned value = substitute(from, inputs) >> (3 - output % 4) & 1;
                wide_box[from][index] |= (uint8_t)(value << place);
            }
            for (unsigned r = 0; r < DES_ROUNDS; r++)
                wide_key_choice[r][8 * to + place] = key_bit[r][to][input];
            wide_load_choice[0][8 * to + place] = initial[half_bit];
            wide_load_choice[1][8 * to + place] = initial[32 + half_bit];
        }
    wide_store_left = 0;
    for (unsigned n = 0; n < 64; n++) {
        unsigned half_bit = (FINAL_PERMUTATION[n] - 1u) % 32;
        unsigned box = half_bit / 4, input = half_bit % 4 + 1;
        wide_store_choice[low_first(n + 1)] = (uint8_t)(8 * box + WIDE_POSITION[box][input]);
        if (FINAL_PERMUTATION[n] <= 32)
            wide_store_left |= 1ull << low_first(n + 1);
    }
}

/* Bit n of the result is bit choice[n] of `bits`, where `used` has bit n; else 0. */
static inline WIDE uint64_t choose_bits(uint64_t bits, const uint8_t choice[64], uint64_t used)
{
    return _mm512_mask_bitshuffle_epi64_mask(used, _mm512_set1_epi64((long long)bits),
                                             _mm512_loadu_si512(choice));
}

static WIDE void wide_schedule(uint64_t round_keys[DES_ROUNDS], const uint8_t key[DES_BLOCK])
{
    uint64_t bits = load64_low_first(key);
    for (unsigned r = 0; r < DES_ROUNDS; r++)
        round_keys[r] = choose_bits(bits, wide_key_choice[r], WIDE_USED);
}

static WIDE des_state wide_load(const uint8_t block[DES_BLOCK])
{
    uint64_t bits = load64_low_first(block);
    des_state state = {choose_bits(bits, wide_load_choice[0], WIDE_USED),
                       choose_bits(bits, wide_load_choice[1], WIDE_USED)};
    return state;
}

static WIDE void wide_store(uint8_t block[DES_BLOCK], des_state state)
{
    store64_low_first(block, choose_bits(state.left, wide_store_choice, wide_store_left) |
                                 choose_bits(state.right, wide_store_choice, ~wide_store_left));
}

/* The part of the round function that S-box `box` contributes, added to `sum`. */
static inline WIDE __m128i wide_add_box(__m128i sum, __m128i inputs, unsigned box)
{
    __m128i index = _mm_shuffle_epi8(inputs, _mm_set1_epi8((char)box));
    __m512i table = _mm512_loadu_si512(wide_box[box]);
    __m128i looked_up =
        _mm512_castsi512_si128(_mm512_permutexvar_epi8(_mm512_castsi128_si512(index), table));
    __m128i mask = _mm_set1_epi64x((long long)wide_box_mask[box]);
    return _mm_ternarylogic_epi64(sum, looked_up, mask, 0x78); /* sum ^ (looked_up & mask) */
}

static inline WIDE __m128i wide_function(__m128i other, __m128i half, uint64_t round_key)
{
    __m128i inputs = _mm_xor_si128(half, _mm_cvtsi64_si128((long long)round_key));
    __m128i one = other, two = _mm_setzero_si128();
    for (unsigned box = 0; box < 8; box += 2) {
        one = wide_add_box(one, inputs, box);
        two = wide_add_box(two, inputs, box + 1);
    }
    return _mm_xor_si128(one, two);
}

static inline WIDE void wide_halves(__m128i *left, __m128i *right, const uint64_t *round_keys,
                                    int decrypt)
{
    __m128i one = *left, other = *right;
    const uint64_t *round_key = decrypt ? round_keys + DES_ROUNDS - 1 : round_keys;
    ptrdiff_t step = decrypt ? -1 : 1;
    for (unsigned r = 0; r < DES_ROUNDS; r += 2) {
        one = wide_function(one, other, *round_key);
        round_key += step;
        other = wide_function(other, one, *round_key);
        round_key += step;
    }
    *left = other;
    *right = one;
}

static WIDE des_state wide_rounds(des_state state, const uint64_t *round_keys, int decrypt)
{
    __m128i left = _mm_cvtsi64_si128((long long)state.left);
    __m128i right = _mm_cvtsi64_si128((long long)state.right);
    wide_halves(&left, &right, round_keys, decrypt);
    des_state done = {(uint64_t)_mm_cvtsi128_si64(left), (uint64_t)_mm_cvtsi128_si64(right)};
    return done;
}

static WIDE des_state wide_absorb(des_state state, const uint64_t *round_keys, const uint8_t *data,
                                  size_t blocks)
{
    __m128i left = _mm_cvtsi64_si128((long long)state.left);
    __m128i right = _mm_cvtsi64_si128((long long)state.right);
    for (; blocks; blocks--, data += DES_BLOCK) {
        des_state block = wide_load(data);
        left = _mm_xor_si128(left, _mm_cvtsi64_si128((long long)block.left));
        right = _mm_xor_si128(right, _mm_cvtsi64_si128((long long)block.right));
        wide_halves(&left, &right, round_keys, 0);
    }
    des_state done = {(uint64_t)_mm_cvtsi128_si64(left), (uint64_t)_mm_cvtsi128_si64(right)};
    return done;
}

static const struct des_core WIDE_CORE = {
    "avx512-vbmi", wide_schedule, wide_load, wide_store, wide_absorb, wide_rounds,
};

static int processor_has_wide(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512bitalg");
}
#else
#define DES_HAVE_WIDE 0
#endif

#endif
