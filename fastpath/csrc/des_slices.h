/* Bit-sliced DES: plane n of a batch holds bit n of every lane's block. Part of des.c, which includes
 * it once for every width, with
 *
 *   SLICE(name)   the name's own version of this width
 *   SLICE_WORDS   64-bit words of a plane; as many times 64 lanes
 *   SLICE_TARGET  the attribute that lets the compiler use the processor's instructions
 */

typedef uint64_t SLICE(type) __attribute__((vector_size(8 * SLICE_WORDS)));
#define slice SLICE(type)
#define SLICE_LANES (64 * SLICE_WORDS)

/* The circuits of the S-boxes, as functions of six planes that add four to the other half. */
#define SLICE_BOX(n)                                                                               \
    static inline __attribute__((always_inline)) SLICE_TARGET void SLICE(box##n)(                  \
        slice g0, slice g1, slice g2, slice g3, slice g4, slice g5, slice *half)
#define SLICE_OUT(box, n, value) half[BOX_OUTPUTS[box - 1][n]] ^= value;
#include "des_boxes.h"
#undef SLICE_BOX
#undef SLICE_OUT

/* Row l of the matrix is word w of rows[l]: all words at once. */
static SLICE_TARGET void SLICE(transpose)(slice rows[64])
{
    static const uint64_t masks[6] = {
        0x00000000FFFFFFFFull, 0x0000FFFF0000FFFFull, 0x00FF00FF00FF00FFull,
        0x0F0F0F0F0F0F0F0Full, 0x3333333333333333ull, 0x5555555555555555ull,
    };
    for (unsigned stage = 0; stage < 6; stage++) {
        unsigned apart = 32u >> stage;
        slice mask = masks[stage] - (slice){0};
        for (unsigned start = 0; start < 64; start += 2 * apart)
            for (unsigned i = start; i < start + apart; i++) {
                slice swap = ((rows[i] >> apart) ^ rows[i + apart]) & mask;
                rows[i + apart] ^= swap;
                rows[i] ^= swap << apart;
            }
    }
}

#define KEYED(n) (from[EXPANDED(BOX, n)] ^ *(const slice *)(keys + choice[6 * BOX + n]))
#define SLICE_CALL(name) SLICE(name)(KEYED(0), KEYED(1), KEYED(2), KEYED(3), KEYED(4), KEYED(5), to)
#define EXPANDED(box, n) ((4 * (box) + (n) + 31) % 32)

/* `choice`: where in `keys` the plane of each of the 48 inputs begins. */
static SLICE_TARGET void SLICE(round)(slice *restrict to, const slice *restrict from,
                                      const uint8_t *restrict keys, const uint16_t *choice)
{
#define BOX 0
    SLICE_CALL(box1);
#undef BOX
#define BOX 1
    SLICE_CALL(box2);
#undef BOX
#define BOX 2
    SLICE_CALL(box3);
#undef BOX
#define BOX 3
    SLICE_CALL(box4);
#undef BOX
#define BOX 4
    SLICE_CALL(box5);
#undef BOX
#define BOX 5
    SLICE_CALL(box6);
#undef BOX
#define BOX 6
    SLICE_CALL(box7);
#undef BOX
#define BOX 7
    SLICE_CALL(box8);
#undef BOX
}
#undef KEYED
#undef SLICE_CALL
#undef EXPANDED

static uint16_t SLICE(choices)[DES_ROUNDS][48];

static void SLICE(fill)(void)
{
    for (unsigned r = 0; r < DES_ROUNDS; r++)
        for (unsigned n = 0; n < 48; n++)
            SLICE(choices)[r][n] = (uint16_t)(key_bit[r][n / 6][n % 6] * sizeof(slice));
}

typedef struct {
    slice half[2][32];
    slice keys[3][64];
    slice block[64];
    uintptr_t bases[SLICE_LANES];
    unsigned left; /* which half is the left one now */
} SLICE(batch);

/* 16 rounds and the last exchange of halves. */
static SLICE_TARGET void SLICE(pass)(SLICE(batch) *b, unsigned key, int decrypt)
{
    slice *left = b->half[b->left], *right = b->half[!b->left];
    const uint8_t *keys = (const uint8_t *)b->keys[key];
    for (unsigned r = 0; r < DES_ROUNDS; r += 2) {
        SLICE(round)(left, right, keys, SLICE(choices)[decrypt ? 15 - r : r]);
        SLICE(round)(right, left, keys, SLICE(choices)[decrypt ? 14 - r : r + 1]);
    }
    b->left = !b->left;
}

/* Lane n is bit n % 64 of word n / 64. */
static inline uint64_t *SLICE(row)(slice *rows, unsigned lane)
{
    return (uint64_t *)rows + (size_t)(lane % 64) * SLICE_WORDS + lane / 64;
}

static SLICE_TARGET void SLICE(load_keys)(SLICE(batch) *b, cipher_lane *const *lanes, unsigned count,
                                          enum des_work work)
{
    for (unsigned key = 0; key < (work == RETAIL ? 2u : 3u); key++) {
        memset(b->keys[key], 0, sizeof b->keys[key]);
        for (unsigned n = 0; n < count; n++)
            *SLICE(row)(b->keys[key], n) = ((const tdes_key *)lanes[n]->key)->whole[key];
        SLICE(transpose)(b->keys[key]);
    }
}

/* Adds the blocks of a step to the state; lanes `running` to `started` begin with it. */
static SLICE_TARGET void SLICE(absorb)(SLICE(batch) *b, cipher_lane *const *lanes, unsigned running,
                                       unsigned started, size_t step, size_t steps)
{
    if (step + 1 < steps)
        for (unsigned n = 0; n < started; n++)
            *SLICE(row)(b->block, n) =
                load64_low_first((const uint8_t *)(b->bases[n] + DES_BLOCK * step));
    else
        for (unsigned n = 0; n < started; n++)
            *SLICE(row)(b->block, n) =
                load64_low_first(lane_block(lanes[n], step, steps, DES_BLOCK));
    for (unsigned n = started; n < SLICE_LANES; n++)
        *SLICE(row)(b->block, n) = 0;
    SLICE(transpose)(b->block);
    if (started != running) {
        slice kept;
        for (unsigned w = 0; w < SLICE_WORDS; w++) {
            unsigned below = running <= 64 * w ? 0 : running - 64 * w;
            kept[w] = below >= 64 ? ~0ull : (1ull << below) - 1;
        }
        for (unsigned n = 0; n < 32; n++) {
            b->half[0][n] &= kept;
            b->half[1][n] &= kept;
        }
    }
    for (unsigned n = 0; n < 32; n++) {
        b->half[b->left][n] ^= b->block[initial_source[n]];
        b->half[!b->left][n] ^= b->block[initial_source[32 + n]];
    }
}

static SLICE_TARGET void SLICE(run)(cipher_lane *const *lanes, unsigned count, enum des_work work)
{
    SLICE(batch) b;
    size_t steps = lane_blocks(lanes[0]);
    unsigned running = 0;
    memset(b.half, 0, sizeof b.half);
    b.left = 0;
    for (unsigned n = 0; n < count; n++)
        b.bases[n] = lane_base(lanes[n], steps, DES_BLOCK);
    SLICE(load_keys)(&b, lanes, count, work);
    for (size_t step = 0; step < steps; step++) {
        unsigned started = lanes_started(lanes, count, running, step, steps);
        SLICE(absorb)(&b, lanes, running, started, step, steps);
        running = started;
        SLICE(pass)(&b, work == UNTRIPLE ? 2 : 0, work == UNTRIPLE);
        if (work != RETAIL) {
            SLICE(pass)(&b, 1, work == TRIPLE);
            SLICE(pass)(&b, work == UNTRIPLE ? 0 : 2, work == UNTRIPLE);
        }
    }
    if (work == RETAIL) {
        SLICE(pass)(&b, 1, 1);
        SLICE(pass)(&b, 0, 0);
    }
    for (unsigned n = 0; n < 32; n++) {
        b.block[initial_source[n]] = b.half[b.left][n];
        b.block[initial_source[32 + n]] = b.half[!b.left][n];
    }
    SLICE(transpose)(b.block);
    for (unsigned n = 0; n < count; n++)
        store64_low_first(lanes[n]->result, *SLICE(row)(b.block, n));
    wipe(&b, sizeof b);
}

#undef slice
#undef SLICE_LANES
#undef SLICE
#undef SLICE_WORDS
#undef SLICE_TARGET
