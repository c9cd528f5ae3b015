/* What a DES core is, and the bit arithmetic that all of them start from. Part of des.c. */
#ifndef FASTPATH_DES_CORE_H
#define FASTPATH_DES_CORE_H

#include "des.h"
#include "des_tables.h"
#include "lanes.h"
#include "secret.h"

/* A block between the initial and the final permutation, in the form its core likes. Both forms
 * are linear, so blocks are chained by XOR of their states and the two permutations, which cancel
 * out between one DES and the next, are left out. */
typedef struct {
    uint64_t left, right;
} des_state;

struct des_core {
    const char *name;
    void (*schedule)(uint64_t round_keys[DES_ROUNDS], const uint8_t key[DES_BLOCK]);
    des_state (*load)(const uint8_t block[DES_BLOCK]);
    void (*store)(uint8_t block[DES_BLOCK], des_state state);
    /* `blocks` blocks are added to `state` and enciphered, one after the other (CBC). */
    des_state (*absorb)(des_state state, const uint64_t *round_keys, const uint8_t *data,
                        size_t blocks);
    /* 16 rounds and the last exchange of halves. */
    des_state (*rounds)(des_state state, const uint64_t *round_keys, int decrypt);
};

/* What is done with every lane, from a state of zeros. */
enum des_work {
    RETAIL, /* each block under the first key, then one turn back under the second and on again */
    TRIPLE, /* each block under all three */
    UNTRIPLE, /* the inverse; one block each */
};

/* One way to do everything on this processor: a core for one message, lanes for many. */
struct des_path {
    const char *name;
    const struct des_core *core;
    /* At most `width` lanes, those with the most blocks first. */
    void (*run)(cipher_lane *const *lanes, unsigned count, enum des_work work);
    unsigned width;
    unsigned worth; /* messages of one length from which lanes are faster than the core */
    int (*runs_here)(void);
};

/* Where in a half (0..31) P leaves the four outputs of each S-box. */
static const uint8_t BOX_OUTPUTS[8][4] = {
    {8, 16, 22, 30}, {12, 27, 1, 17}, {23, 15, 29, 5}, {25, 19, 9, 0},
    {7, 13, 24, 2}, {3, 28, 10, 18}, {31, 11, 21, 6}, {4, 26, 14, 20},
};

/* Bit of a block (see `low_first`) that the initial permutation puts into place 0..63. */
static uint8_t initial_source[64];

/* Bit of the key (see `low_first`) that feeds input k of S-box i in round r. */
static uint8_t key_bit[DES_ROUNDS][8][6];

/* The standard's bit 1..64 of a block, counted in a word loaded first byte lowest. */
static unsigned low_first(unsigned bit)
{
    return 8 * ((bit - 1) / 8) + 7 - (bit - 1) % 8;
}

/* The standard's bit 1..32 of the half that is input k of S-box i (the expansion E). */
static unsigned expanded(unsigned box, unsigned input)
{
    return (4 * box + input + 31) % 32 + 1;
}

/* Output of S-box `box` for inputs whose k-th (first = 0) is bit k of `inputs`. */
static unsigned substitute(unsigned box, unsigned inputs)
{
    unsigned row = (inputs & 1) << 1 | inputs >> 5;
    unsigned column = 0;
    for (unsigned k = 1; k <= 4; k++)
        column = column << 1 | (inputs >> k & 1);
    return S_BOXES[box][row][column];
}

static void fill_bits(void)
{
    unsigned turned = 0;
    for (unsigned r = 0; r < DES_ROUNDS; r++) {
        turned += KEY_SHIFTS[r];
        for (unsigned n = 0; n < 48; n++) {
            unsigned chosen = KEY_CHOICE_2[n] - 1u;
            unsigned half = chosen / 28 * 28;
            unsigned source = KEY_CHOICE_1[half + (chosen - half + turned) % 28];
            key_bit[r][n / 6][n % 6] = (uint8_t)low_first(source);
        }
    }
    for (unsigned n = 0; n < 64; n++)
        initial_source[FINAL_PERMUTATION[n] - 1] = (uint8_t)low_first(n + 1);
}

#endif
