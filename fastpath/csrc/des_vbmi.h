/* 64 messages at once in AVX-512 VBMI and GFNI. Part of des.c.
 *
 * As in des_wide.h a byte holds the six inputs of an S-box, each at its place, and VPERMB is a
 * look-up; but here a register holds one S-box of 64 messages, and a half is eight registers. P and
 * E then move bits between registers, never inside a byte. The places are such that what has to be
 * moved is a butterfly of three layers, each a selection between two registers by place
 * (search/find_routes.c). Round keys are kept as K[r - 1] ^ K[r + 1], so that a half always has the
 * next round's key in it and the key costs no instruction of its own: 40 a round.
 */
#ifndef FASTPATH_DES_VBMI_H
#define FASTPATH_DES_VBMI_H

#include "des_wide.h"

#if DES_HAVE_WIDE
#define VBMI                                                                                       \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,gfni")))
#define VBMI_INLINE static inline __attribute__((always_inline)) VBMI
#define VBMI_LANES 64
#define EIGHT _Pragma("GCC unroll 8")

/* In which of eight registers the butterfly takes a box's output, and leaves its inputs. */
static const uint8_t ROUTE_FROM[8] = {7, 5, 1, 3, 6, 2, 4, 0};
static const uint8_t ROUTE_TO[8] = {4, 7, 3, 0, 5, 1, 2, 6};
/* The places at which registers 4, 2 and 1 apart are exchanged, pair by pair. */
static const uint8_t ROUTE_SWITCHES[3][4] = {
    {0x26, 0x1C, 0x39, 0x32}, {0x30, 0x34, 0x1C, 0x1A}, {0x2A, 0x2C, 0x30, 0x36},
};

static uint64_t vbmi_load_matrix[8][2]; /* bytes of a half -> inputs of a box */
static uint64_t vbmi_store_matrix[8];   /* inputs of a box -> its bits in a byte of the half */
static uint8_t vbmi_load_bytes[64], vbmi_store_bytes[64];

/* GF2P8AFFINEQB: bit i of a result is the parity of the byte and byte 7 - i of the matrix. */
static uint64_t matrix_bit(unsigned to, unsigned from)
{
    return 1ull << (8 * (7 - to) + from);
}

/* A box's inputs are bits of its own byte of the half, box / 2, and of this one. */
static inline unsigned other_byte(unsigned box)
{
    return (box & 1 ? box / 2 + 1 : box / 2 + 3) % 4;
}

static void fill_vbmi(void)
{
    memset(vbmi_load_matrix, 0, sizeof vbmi_load_matrix);
    memset(vbmi_store_matrix, 0, sizeof vbmi_store_matrix);
    for (unsigned box = 0; box < 8; box++)
        for (unsigned input = 0; input < 6; input++) {
            unsigned bit = expanded(box, input) - 1, place = WIDE_POSITION[box][input];
            vbmi_load_matrix[box][bit / 8 != box / 2] |= matrix_bit(place, bit % 8);
            if (bit / 4 == box)
                vbmi_store_matrix[box] |= matrix_bit(bit % 8, place);
        }
    for (unsigned byte = 0; byte < 8; byte++)
        for (unsigned lane = 0; lane < 8; lane++) {
            unsigned column = byte < 4 ? 1 + 2 * byte : 2 * (byte - 4);
            vbmi_load_bytes[8 * byte + lane] = (uint8_t)(8 * lane + byte);
            vbmi_store_bytes[8 * lane + column] = (uint8_t)(8 * byte + lane);
        }
}

/* Word j of register i <-> word i of register j. */
VBMI_INLINE void transpose_words(__m512i r[8])
{
    __m512i t[8], u[8];
    EIGHT for (unsigned i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
    }
    EIGHT for (unsigned i = 0; i < 8; i += 4) {
        u[i] = _mm512_shuffle_i64x2(t[i], t[i + 2], 0x88);
        u[i + 1] = _mm512_shuffle_i64x2(t[i + 1], t[i + 3], 0x88);
        u[i + 2] = _mm512_shuffle_i64x2(t[i], t[i + 2], 0xDD);
        u[i + 3] = _mm512_shuffle_i64x2(t[i + 1], t[i + 3], 0xDD);
    }
    EIGHT for (unsigned i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i64x2(u[i], u[i + 4], 0x88);
        r[i + 4] = _mm512_shuffle_i64x2(u[i], u[i + 4], 0xDD);
    }
}

typedef struct {
    __m512i first[8];            /* K[1] */
    __m512i steps[DES_ROUNDS][8]; /* K[2], K[1] ^ K[3], ..., K[14] ^ K[16], K[15] */
    __m512i last[8];             /* K[16] */
} vbmi_keys;

typedef struct {
    __m512i left[8], right[8];
} vbmi_state;

/* The `key`-th schedules of all lanes, a round's byte of each in one register. */
static VBMI void vbmi_load_keys(vbmi_keys *keys, cipher_lane *const *lanes, unsigned count,
                                unsigned key, int decrypt)
{
    static const uint64_t none[DES_ROUNDS];
    __m512i rounds[DES_ROUNDS][8];
    __m512i bytes = _mm512_loadu_si512(vbmi_load_bytes);
    for (unsigned group = 0; group < 8; group++)
        for (unsigned part = 0; part < 2; part++) {
            __m512i r[8];
            EIGHT for (unsigned i = 0; i < 8; i++) {
                unsigned n = 8 * group + i;
                const tdes_key *own = n < count ? lanes[n]->key : NULL;
                const uint64_t *from = own ? own->round_keys[key] : none;
                r[i] = _mm512_loadu_si512(from + 8 * part);
            }
            transpose_words(r);
            EIGHT for (unsigned i = 0; i < 8; i++)
                rounds[8 * part + i][group] = _mm512_permutexvar_epi8(bytes, r[i]);
        }
    for (unsigned r = 0; r < DES_ROUNDS; r++)
        transpose_words(rounds[r]);
#define ROUND_KEY(r) rounds[decrypt ? DES_ROUNDS - 1 - (r) : (r)][box]
    for (unsigned box = 0; box < 8; box++) {
        keys->first[box] = ROUND_KEY(0);
        keys->last[box] = ROUND_KEY(DES_ROUNDS - 1);
        keys->steps[0][box] = ROUND_KEY(1);
        for (unsigned r = 1; r + 1 < DES_ROUNDS; r++)
            keys->steps[r][box] = _mm512_xor_si512(ROUND_KEY(r - 1), ROUND_KEY(r + 1));
        keys->steps[DES_ROUNDS - 1][box] = ROUND_KEY(DES_ROUNDS - 2);
    }
#undef ROUND_KEY
    wipe(rounds, sizeof rounds);
}

VBMI_INLINE __m512i add3(__m512i one, __m512i two, __m512i three)
{
    return _mm512_ternarylogic_epi64(one, two, three, 0x96);
}

/* Layer `layer` of the butterfly: registers `apart` apart change what the switches say. */
VBMI_INLINE void route(__m512i x[8], unsigned layer, unsigned apart)
{
    unsigned pair = 0;
    EIGHT for (unsigned i = 0; i < 8; i++)
        if (!(i & apart)) {
            __m512i places = _mm512_set1_epi8((char)ROUTE_SWITCHES[layer][pair++]);
            __m512i one = x[i], other = x[i | apart];
            x[i] = _mm512_ternarylogic_epi64(one, other, places, 0xD8); /* places ? other : one */
            x[i | apart] = _mm512_ternarylogic_epi64(other, one, places, 0xD8);
        }
}

VBMI_INLINE void vbmi_round(__m512i to[8], const __m512i from[8], const __m512i step[8])
{
    __m512i x[8];
    EIGHT for (unsigned box = 0; box < 8; box++)
        x[ROUTE_FROM[box]] =
            _mm512_permutexvar_epi8(from[box], _mm512_loadu_si512(wide_box[box]));
    route(x, 0, 4);
    route(x, 1, 2);
    route(x, 2, 1);
    EIGHT for (unsigned box = 0; box < 8; box++)
        to[box] = add3(to[box], x[ROUTE_TO[box]], step[box]);
}

/* 16 rounds and the last exchange of halves. */
VBMI_INLINE void vbmi_pass(vbmi_state *state, const vbmi_keys *keys)
{
    __m512i left[8], right[8];
    EIGHT for (unsigned i = 0; i < 8; i++) {
        left[i] = state->left[i];
        right[i] = _mm512_xor_si512(state->right[i], keys->first[i]);
    }
    for (unsigned r = 0; r < DES_ROUNDS; r += 2) {
        vbmi_round(left, right, keys->steps[r]);
        vbmi_round(right, left, keys->steps[r + 1]);
    }
    EIGHT for (unsigned i = 0; i < 8; i++) {
        state->left[i] = right[i];
        state->right[i] = _mm512_xor_si512(left[i], keys->last[i]);
    }
}

VBMI_INLINE __m512i affine(__m512i bytes, uint64_t matrix)
{
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64((long long)matrix), 0);
}

/* Adds 64 blocks, lane after lane in memory. The bit matrix of a block times single bits is its
 * transpose, which is all of the initial permutation. */
VBMI_INLINE void vbmi_absorb(vbmi_state *state, const uint8_t blocks[VBMI_LANES][DES_BLOCK])
{
    const __m512i columns = _mm512_set1_epi64((long long)0x0208208001041040ull);
    __m512i bytes = _mm512_loadu_si512(vbmi_load_bytes);
    __m512i p[8];
    EIGHT for (unsigned group = 0; group < 8; group++) {
        __m512i rows = _mm512_loadu_si512(blocks[8 * group]);
        p[group] = _mm512_permutexvar_epi8(bytes, _mm512_gf2p8affine_epi64_epi8(columns, rows, 0));
    }
    transpose_words(p);
    EIGHT for (unsigned box = 0; box < 8; box++) {
        unsigned own = box / 2, other = other_byte(box);
        const uint64_t *matrix = vbmi_load_matrix[box];
        state->left[box] = add3(state->left[box], affine(p[own], matrix[0]),
                                affine(p[other], matrix[1]));
        state->right[box] = add3(state->right[box], affine(p[4 + own], matrix[0]),
                                 affine(p[4 + other], matrix[1]));
    }
}

static VBMI void vbmi_store(const vbmi_state *state, uint8_t blocks[VBMI_LANES][DES_BLOCK])
{
    const __m512i rows = _mm512_set1_epi64(0x0102040810204080ll);
    __m512i bytes = _mm512_loadu_si512(vbmi_store_bytes);
    __m512i p[8];
    EIGHT for (unsigned i = 0; i < 4; i++) {
        const uint64_t *matrix = &vbmi_store_matrix[2 * i];
        p[i] = _mm512_xor_si512(affine(state->left[2 * i], matrix[0]),
                                affine(state->left[2 * i + 1], matrix[1]));
        p[4 + i] = _mm512_xor_si512(affine(state->right[2 * i], matrix[0]),
                                    affine(state->right[2 * i + 1], matrix[1]));
    }
    transpose_words(p);
    EIGHT for (unsigned group = 0; group < 8; group++) {
        __m512i columns = _mm512_permutexvar_epi8(bytes, p[group]);
        _mm512_storeu_si512(blocks[8 * group], _mm512_gf2p8affine_epi64_epi8(rows, columns, 0));
    }
}

/* Lanes that have not begun are kept at zero. */
VBMI_INLINE void vbmi_hold_back(vbmi_state *state, unsigned running)
{
    __mmask64 kept = running >= 64 ? ~0ull : (1ull << running) - 1;
    EIGHT for (unsigned i = 0; i < 8; i++) {
        state->left[i] = _mm512_maskz_mov_epi8(kept, state->left[i]);
        state->right[i] = _mm512_maskz_mov_epi8(kept, state->right[i]);
    }
}

/* The blocks of a step behind each other. */
VBMI_INLINE void vbmi_collect(uint8_t blocks[VBMI_LANES][DES_BLOCK], cipher_lane *const *lanes,
                              const uintptr_t bases[VBMI_LANES], unsigned running, size_t step,
                              size_t steps)
{
    if (step + 1 < steps) {
        for (unsigned n = 0; n < running; n++)
            memcpy(blocks[n], (const uint8_t *)(bases[n] + DES_BLOCK * step), DES_BLOCK);
        return;
    }
    for (unsigned n = 0; n < running; n++)
        memcpy(blocks[n], lane_block(lanes[n], step, steps, DES_BLOCK), DES_BLOCK);
}

static VBMI void vbmi_run(cipher_lane *const *lanes, unsigned count, enum des_work work)
{
    uint8_t blocks[VBMI_LANES][DES_BLOCK] __attribute__((aligned(64))) = {{0}};
    vbmi_keys keys[3];
    vbmi_state state;
    size_t steps = lane_blocks(lanes[0]);
    unsigned running = 0;
    uintptr_t bases[VBMI_LANES];
    for (unsigned n = 0; n < count; n++)
        bases[n] = lane_base(lanes[n], steps, DES_BLOCK);
    memset(&state, 0, sizeof state);
    for (unsigned key = 0; key < (work == RETAIL ? 1u : 3u); key++)
        vbmi_load_keys(&keys[key], lanes, count, work == UNTRIPLE ? 2 - key : key,
                       key == 1 ? work != UNTRIPLE : work == UNTRIPLE);
    for (size_t step = 0; step < steps; step++) {
        unsigned started = lanes_started(lanes, count, running, step, steps);
        if (started != running)
            vbmi_hold_back(&state, running);
        running = started;
        vbmi_collect(blocks, lanes, bases, running, step, steps);
        vbmi_absorb(&state, (const uint8_t(*)[DES_BLOCK])blocks);
        for (unsigned key = 0; key < (work == RETAIL ? 1u : 3u); key++)
            vbmi_pass(&state, &keys[key]);
    }
    if (work == RETAIL) {
        vbmi_load_keys(&keys[1], lanes, count, 1, 1);
        vbmi_pass(&state, &keys[1]);
        vbmi_pass(&state, &keys[0]);
    }
    vbmi_store(&state, blocks);
    for (unsigned n = 0; n < count; n++)
        memcpy(lanes[n]->result, blocks[n], DES_BLOCK);
    wipe(keys, (work == RETAIL ? 2 : 3) * sizeof keys[0]);
    wipe(&state, sizeof state);
    wipe(blocks, sizeof blocks);
}

static int processor_has_vbmi(void)
{
    return processor_has_wide() && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("gfni");
}
#endif

#endif
