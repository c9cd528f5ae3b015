/* The portable DES core. Part of des.c.
 *
 * All eight S-boxes at once as polynomials over GF(2): a word has one nibble per box, and each of
 * the 64 coefficients of the six inputs is such a word. The low half of a coefficient is the one
 * without the sixth input, the high half the one with it, so that a 64-bit register works on two
 * at a time.
 */
#ifndef FASTPATH_DES_PORTABLE_H
#define FASTPATH_DES_PORTABLE_H

#include "des_core.h"


/* Where output 0..3 of each S-box goes in its nibble. Chosen by search so that the permutation P
 * of the 32 bits is the union of eight masked rotations; fewer are not possible. */
static const uint8_t NIBBLE_ORDER[8][4] = {
    {2, 0, 3, 1}, {2, 1, 0, 3}, {1, 3, 0, 2}, {2, 3, 0, 1},
    {1, 0, 2, 3}, {0, 2, 3, 1}, {3, 2, 0, 1}, {2, 1, 3, 0},
};
static const uint8_t ROTATIONS[8] = {4, 6, 10, 11, 14, 19, 20, 25};

static uint64_t coefficients[32];
static uint32_t rotation_masks[8];

static inline uint32_t rotate_left(uint32_t value, unsigned by)
{
    return value << by | value >> (32 - by);
}

static void fill_portable(void)
{
    uint32_t values[64] = {0};
    for (unsigned inputs = 0; inputs < 64; inputs++)
        for (unsigned box = 0; box < 8; box++)
            for (unsigned bit = 0; bit < 4; bit++)
                if (substitute(box, inputs) >> (3 - bit) & 1)
                    values[inputs] |= 1u << (28 - 4 * box + NIBBLE_ORDER[box][bit]);
    for (unsigned input = 1; input < 64; input <<= 1) /* truth table -> polynomial */
        for (unsigned m = 0; m < 64; m++)
            if (m & input)
                values[m] ^= values[m ^ input];
    for (unsigned m = 0; m < 32; m++)
        coefficients[m] = (uint64_t)values[m + 32] << 32 | values[m];

    memset(rotation_masks, 0, sizeof rotation_masks);
    for (unsigned to = 0; to < 32; to++) {
        unsigned box = (ROUND_PERMUTATION[to] - 1u) / 4, bit = (ROUND_PERMUTATION[to] - 1u) % 4;
        unsigned from = 28 - 4 * box + NIBBLE_ORDER[box][bit];
        for (unsigned i = 0; i < 8; i++)
            if ((from + ROTATIONS[i]) % 32 == 31 - to)
                rotation_masks[i] |= 1u << from;
    }
}

/* High word: inputs 0..3 of each box, a nibble per box; low word: inputs 4 and 5. */
static void portable_schedule(uint64_t round_keys[DES_ROUNDS], const uint8_t key[DES_BLOCK])
{
    uint64_t bits = load64_low_first(key);
    for (unsigned r = 0; r < DES_ROUNDS; r++) {
        uint32_t first = 0, last = 0;
        for (unsigned box = 0; box < 8; box++) {
            const uint8_t *source = key_bit[r][box];
            for (unsigned k = 0; k < 4; k++)
                first = first << 1 | (uint32_t)(bits >> source[k] & 1);
            last = last << 4 | (uint32_t)(bits >> source[4] & 1) << 1 |
                   (uint32_t)(bits >> source[5] & 1);
        }
        round_keys[r] = (uint64_t)first << 32 | last;
    }
}

static uint32_t even_bytes(uint64_t x)
{
    x &= 0x00FF00FF00FF00FFull;
    x = (x | x >> 8) & 0x0000FFFF0000FFFFull;
    return (uint32_t)(x | x >> 16);
}

static uint64_t spread_bytes(uint64_t x)
{
    x = (x | x << 16) & 0x0000FFFF0000FFFFull;
    return (x | x << 8) & 0x00FF00FF00FF00FFull;
}

/* The initial permutation is a transposition of the 8 x 8 bits and a sorting of the rows. */
static des_state portable_load(const uint8_t block[DES_BLOCK])
{
    uint64_t rows = transpose8(load64_low_first(block));
    des_state state = {even_bytes(rows), even_bytes(rows >> 8)};
    return state;
}

static void portable_store(uint8_t block[DES_BLOCK], des_state state)
{
    uint64_t rows = spread_bytes(state.left) | spread_bytes(state.right) << 8;
    store64_low_first(block, transpose8(rows));
}

/* Bit 0 of every nibble, copied to all eight positions of that nibble's two coefficients. */
static inline uint64_t input_of_all_boxes(uint32_t value)
{
    return (value & 0x11111111u) * 0x0000000F0000000Full;
}

static inline uint32_t portable_function(uint32_t half, uint64_t round_key)
{
    uint32_t first = rotate_left(half, 31) ^ (uint32_t)(round_key >> 32);
    uint32_t last = rotate_left(half, 1) ^ (uint32_t)round_key;
    uint64_t input[5] = {input_of_all_boxes(first >> 3), input_of_all_boxes(first >> 2),
                         input_of_all_boxes(first >> 1), input_of_all_boxes(first),
                         input_of_all_boxes(last >> 1)};
    uint64_t term[16];
    for (unsigned m = 0; m < 16; m++)
        term[m] = coefficients[2 * m] ^ (coefficients[2 * m + 1] & input[0]);
    for (unsigned m = 0; m < 8; m++)
        term[m] = term[2 * m] ^ (term[2 * m + 1] & input[1]);
    for (unsigned m = 0; m < 4; m++)
        term[m] = term[2 * m] ^ (term[2 * m + 1] & input[2]);
    for (unsigned m = 0; m < 2; m++)
        term[m] = term[2 * m] ^ (term[2 * m + 1] & input[3]);
    term[0] ^= term[1] & input[4];
    uint32_t boxes = (uint32_t)term[0] ^
                     ((uint32_t)(term[0] >> 32) & (uint32_t)input_of_all_boxes(last));
    uint32_t permuted = 0;
    for (unsigned i = 0; i < 8; i++)
        permuted |= rotate_left(boxes & rotation_masks[i], ROTATIONS[i]);
    return permuted;
}

static des_state portable_rounds(des_state state, const uint64_t *round_keys, int decrypt)
{
    uint32_t left = (uint32_t)state.left, right = (uint32_t)state.right;
    const uint64_t *round_key = decrypt ? round_keys + DES_ROUNDS - 1 : round_keys;
    ptrdiff_t step = decrypt ? -1 : 1;
    for (unsigned r = 0; r < DES_ROUNDS; r += 2) {
        left ^= portable_function(right, *round_key);
        round_key += step;
        right ^= portable_function(left, *round_key);
        round_key += step;
    }
    des_state done = {right, left};
    return done;
}

static des_state portable_absorb(des_state state, const uint64_t *round_keys, const uint8_t *data,
                                 size_t blocks)
{
    for (; blocks; blocks--, data += DES_BLOCK) {
        des_state block = portable_load(data);
        state.left ^= block.left;
        state.right ^= block.right;
        state = portable_rounds(state, round_keys, 0);
    }
    return state;
}

static const struct des_core PORTABLE = {
    "portable", portable_schedule, portable_load, portable_store, portable_absorb, portable_rounds,
};

#endif
