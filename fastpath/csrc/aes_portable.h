/* The portable AES core: bit-sliced. Part of aes.c.
 *
 * Plane p holds bit p of 64 bytes, that is of four blocks; byte i of block b is bit 16 b + i. The
 * S-box is an inversion in GF(2^8), done in the tower GF(((2^2)^2)^2), where it costs 36 products
 * of bits, between two linear maps into and out of the tower. The maps are those of the cheapest
 * of all eight-bit bases of the tower w^2 = w + 1, z^2 = z + w, y^2 = y + (w z), found by search.
 */
#ifndef FASTPATH_AES_PORTABLE_H
#define FASTPATH_AES_PORTABLE_H

#include "aes_core.h"

#define PORTABLE_TOGETHER 4
#define EVERY_BLOCK(plane16) ((plane16) * 0x0001000100010001ull)

typedef struct {
    uint64_t high, low;
} gf4;

typedef struct {
    gf4 high, low;
} gf16;

typedef struct {
    gf16 high, low;
} gf256;

static inline gf4 gf4_add(gf4 a, gf4 b)
{
    gf4 sum = {a.high ^ b.high, a.low ^ b.low};
    return sum;
}

static inline gf4 gf4_multiply(gf4 a, gf4 b)
{
    uint64_t low = a.low & b.low;
    gf4 product = {((a.high ^ a.low) & (b.high ^ b.low)) ^ low, (a.high & b.high) ^ low};
    return product;
}

static inline gf4 gf4_square(gf4 a) /* and the inverse */
{
    gf4 square = {a.high, a.high ^ a.low};
    return square;
}

static inline gf4 gf4_times_w(gf4 a)
{
    gf4 product = {a.high ^ a.low, a.high};
    return product;
}

static inline gf16 gf16_add(gf16 a, gf16 b)
{
    gf16 sum = {gf4_add(a.high, b.high), gf4_add(a.low, b.low)};
    return sum;
}

static inline gf16 gf16_multiply(gf16 a, gf16 b)
{
    gf4 low = gf4_multiply(a.low, b.low);
    gf4 both = gf4_multiply(gf4_add(a.high, a.low), gf4_add(b.high, b.low));
    gf16 product = {gf4_add(both, low),
                    gf4_add(gf4_times_w(gf4_multiply(a.high, b.high)), low)};
    return product;
}

static inline gf16 gf16_square(gf16 a)
{
    gf4 high = gf4_square(a.high);
    gf16 square = {high, gf4_add(gf4_times_w(high), gf4_square(a.low))};
    return square;
}

static inline gf16 gf16_square_times_wz(gf16 a)
{
    uint64_t sum = a.high.high ^ a.high.low;
    gf16 product = {{a.high.high ^ a.low.low, sum ^ a.low.high}, {sum, a.high.low}};
    return product;
}

/* 0 stays 0. With z^2 = z + w the norm of (h z + l) is w h^2 + h l + l^2. */
static inline gf16 gf16_invert(gf16 a)
{
    gf4 norm = gf4_add(gf4_times_w(gf4_square(a.high)),
                       gf4_multiply(a.low, gf4_add(a.high, a.low)));
    gf4 inverse = gf4_square(norm);
    gf16 inverted = {gf4_multiply(a.high, inverse),
                     gf4_multiply(gf4_add(a.high, a.low), inverse)};
    return inverted;
}

static inline gf256 gf256_invert(gf256 a)
{
    gf16 sum = gf16_add(a.high, a.low);
    gf16 norm = gf16_add(gf16_square_times_wz(a.high), gf16_multiply(a.low, sum));
    gf16 inverse = gf16_invert(norm);
    gf256 inverted = {gf16_multiply(a.high, inverse), gf16_multiply(sum, inverse)};
    return inverted;
}

static inline gf256 into_tower(const uint64_t x[8])
{
    gf256 y;
    uint64_t t0 = x[1] ^ x[6];
    uint64_t t1 = x[4] ^ t0;
    uint64_t t2 = x[7] ^ t0;
    uint64_t t3 = x[5] ^ t1;
    uint64_t t4 = x[5] ^ x[7];
    uint64_t t5 = x[3] ^ t2;
    uint64_t t6 = x[3] ^ t3;
    uint64_t t7 = x[2] ^ x[5];
    uint64_t t8 = x[2] ^ t6;
    uint64_t t9 = x[1] ^ t4;
    uint64_t t10 = x[0] ^ x[2];
    y.low.low.low = t10;
    y.low.low.high = t2;
    y.low.high.low = t7;
    y.low.high.high = t5;
    y.high.low.low = t9;
    y.high.low.high = t3;
    y.high.high.low = t8;
    y.high.high.high = t4;
    return y;
}

/* Out of the tower, and the affine map of the S-box. */
static inline void out_of_tower_affine(uint64_t x[8], gf256 y)
{
    uint64_t t0 = y.high.low.low ^ y.high.low.high;
    uint64_t t1 = y.low.low.low ^ y.low.high.low;
    uint64_t t2 = t0 ^ t1;
    uint64_t t3 = y.low.high.high ^ t0;
    uint64_t t4 = y.high.low.low ^ y.high.high.low;
    uint64_t t5 = y.low.high.low ^ t3;
    uint64_t t6 = y.low.high.low ^ t4;
    uint64_t t7 = y.high.high.low ^ t2;
    uint64_t t8 = y.low.low.low ^ t3;
    uint64_t t9 = y.low.low.low ^ y.low.low.high;
    uint64_t t10 = y.high.high.high ^ t4;
    uint64_t t11 = y.low.low.high ^ t1;
    x[0] = ~t2;
    x[1] = ~t11;
    x[2] = t9;
    x[3] = t7;
    x[4] = t8;
    x[5] = ~t5;
    x[6] = ~t10;
    x[7] = t6;
}

/* The inverse of that affine map without its constant, and into the tower. */
static inline gf256 inverse_affine_into_tower(const uint64_t x[8])
{
    gf256 y;
    uint64_t t0 = x[1] ^ x[2];
    uint64_t t1 = x[4] ^ t0;
    uint64_t t2 = x[0] ^ x[3];
    uint64_t t3 = x[5] ^ t1;
    uint64_t t4 = x[7] ^ t0;
    uint64_t t5 = t2 ^ t4;
    uint64_t t6 = x[3] ^ t3;
    uint64_t t7 = x[1] ^ x[5];
    uint64_t t8 = x[0] ^ t1;
    uint64_t t9 = x[6] ^ t4;
    uint64_t t10 = x[7] ^ t6;
    uint64_t t11 = x[4] ^ t7;
    y.low.low.low = t3;
    y.low.low.high = t11;
    y.low.high.low = t0;
    y.low.high.high = t8;
    y.high.low.low = t5;
    y.high.low.high = t10;
    y.high.high.low = t2;
    y.high.high.high = t9;
    return y;
}

static inline void out_of_tower(uint64_t x[8], gf256 y)
{
    uint64_t t0 = y.low.high.high ^ y.high.high.low;
    uint64_t t1 = y.high.low.high ^ t0;
    uint64_t t2 = y.low.low.high ^ t1;
    uint64_t t3 = y.low.high.low ^ t2;
    uint64_t t4 = y.high.high.high ^ t3;
    uint64_t t5 = y.low.high.low ^ y.high.low.low;
    uint64_t t6 = y.high.low.high ^ y.high.high.high;
    uint64_t t7 = y.low.low.high ^ t6;
    uint64_t t8 = y.low.low.low ^ t2;
    uint64_t t9 = y.low.low.high ^ y.low.high.high;
    uint64_t t10 = y.high.low.low ^ y.high.high.high;
    uint64_t t11 = t1 ^ t5;
    x[0] = t8;
    x[1] = t10;
    x[2] = t2;
    x[3] = t9;
    x[4] = t7;
    x[5] = t3;
    x[6] = t11;
    x[7] = t4;
}

static inline void substitute_bytes(uint64_t x[8])
{
    out_of_tower_affine(x, gf256_invert(into_tower(x)));
}

static inline void inverse_substitute_bytes(uint64_t x[8])
{
    x[0] = ~x[0]; /* 0x63 */
    x[1] = ~x[1];
    x[5] = ~x[5];
    x[6] = ~x[6];
    out_of_tower(x, gf256_invert(inverse_affine_into_tower(x)));
}

/* Byte i is row i % 4 of column i / 4. */
static inline void shift_rows(uint64_t x[8])
{
    for (int p = 0; p < 8; p++)
        x[p] = (x[p] & EVERY_BLOCK(0x1111)) | (x[p] >> 4 & EVERY_BLOCK(0x0222)) |
               (x[p] << 12 & EVERY_BLOCK(0x2000)) | (x[p] >> 8 & EVERY_BLOCK(0x0044)) |
               (x[p] << 8 & EVERY_BLOCK(0x4400)) | (x[p] >> 12 & EVERY_BLOCK(0x0008)) |
               (x[p] << 4 & EVERY_BLOCK(0x8880));
}

static inline void inverse_shift_rows(uint64_t x[8])
{
    for (int p = 0; p < 8; p++)
        x[p] = (x[p] & EVERY_BLOCK(0x1111)) | (x[p] << 4 & EVERY_BLOCK(0x2220)) |
               (x[p] >> 12 & EVERY_BLOCK(0x0002)) | (x[p] >> 8 & EVERY_BLOCK(0x0044)) |
               (x[p] << 8 & EVERY_BLOCK(0x4400)) | (x[p] << 12 & EVERY_BLOCK(0x8000)) |
               (x[p] >> 4 & EVERY_BLOCK(0x0888));
}

/* Each byte becomes the one a row below it in its column. */
static inline uint64_t next_row(uint64_t plane)
{
    return (plane >> 1 & EVERY_BLOCK(0x7777)) | (plane << 3 & EVERY_BLOCK(0x8888));
}

static inline uint64_t second_row(uint64_t plane)
{
    return (plane >> 2 & EVERY_BLOCK(0x3333)) | (plane << 2 & EVERY_BLOCK(0xCCCC));
}

/* Multiplies by 2 in GF(2^8) of FIPS 197. */
static inline void double_bytes(uint64_t x[8])
{
    uint64_t carry = x[7];
    for (int p = 7; p > 0; p--)
        x[p] = x[p - 1];
    x[0] = carry;
    x[1] ^= carry;
    x[3] ^= carry;
    x[4] ^= carry;
}

static inline void mix_columns(uint64_t x[8])
{
    uint64_t pair[8], rest[8];
    for (int p = 0; p < 8; p++) {
        uint64_t next = next_row(x[p]);
        pair[p] = x[p] ^ next;
        rest[p] = next ^ second_row(pair[p]);
    }
    double_bytes(pair);
    for (int p = 0; p < 8; p++)
        x[p] = pair[p] ^ rest[p];
}

/* The inverse matrix is that of mix_columns times the circulant (5, 0, 4, 0). */
static inline void inverse_mix_columns(uint64_t x[8])
{
    uint64_t sum[8];
    for (int p = 0; p < 8; p++)
        sum[p] = x[p] ^ second_row(x[p]);
    double_bytes(sum);
    double_bytes(sum);
    for (int p = 0; p < 8; p++)
        x[p] ^= sum[p];
    mix_columns(x);
}

static inline void load_planes(uint64_t x[8], const uint8_t *in, unsigned blocks)
{
    memset(x, 0, 8 * sizeof x[0]);
    for (unsigned b = 0; b < blocks; b++) {
        uint64_t first = transpose8(load64_low_first(in + AES_BLOCK * b));
        uint64_t last = transpose8(load64_low_first(in + AES_BLOCK * b + 8));
        for (int p = 0; p < 8; p++)
            x[p] |= ((first >> (8 * p) & 0xFF) | (last >> (8 * p) & 0xFF) << 8) << (16 * b);
    }
}

static inline void store_planes(uint8_t *out, const uint64_t x[8], unsigned blocks)
{
    for (unsigned b = 0; b < blocks; b++) {
        uint64_t first = 0, last = 0;
        for (int p = 0; p < 8; p++) {
            first |= (x[p] >> (16 * b) & 0xFF) << (8 * p);
            last |= (x[p] >> (16 * b + 8) & 0xFF) << (8 * p);
        }
        store64_low_first(out + AES_BLOCK * b, transpose8(first));
        store64_low_first(out + AES_BLOCK * b + 8, transpose8(last));
    }
}

static uint32_t portable_substitute_word(uint32_t word)
{
    uint64_t x[8], rows = transpose8(word);
    for (int p = 0; p < 8; p++)
        x[p] = rows >> (8 * p) & 0xFF;
    substitute_bytes(x);
    rows = 0;
    for (int p = 0; p < 8; p++)
        rows |= (x[p] & 0x0F) << (8 * p);
    return (uint32_t)transpose8(rows);
}

/* A round key is kept as its eight planes of 16 bits. */
static void portable_keep_round_key(uint8_t round_key[AES_BLOCK])
{
    uint64_t x[8];
    load_planes(x, round_key, 1);
    for (int p = 0; p < 8; p++) {
        round_key[2 * p] = (uint8_t)x[p];
        round_key[2 * p + 1] = (uint8_t)(x[p] >> 8);
    }
    wipe(x, sizeof x);
}

static inline void add_round_key(uint64_t x[8], const uint8_t round_key[AES_BLOCK])
{
    for (int p = 0; p < 8; p++)
        x[p] ^= EVERY_BLOCK((uint64_t)(round_key[2 * p] | round_key[2 * p + 1] << 8));
}

static void portable_encrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks)
{
    uint64_t x[8];
    while (blocks) {
        unsigned group = blocks < PORTABLE_TOGETHER ? (unsigned)blocks : PORTABLE_TOGETHER;
        load_planes(x, in, group);
        add_round_key(x, key->round_keys[0]);
        for (unsigned r = 1; r < key->rounds; r++) {
            substitute_bytes(x);
            shift_rows(x);
            mix_columns(x);
            add_round_key(x, key->round_keys[r]);
        }
        substitute_bytes(x);
        shift_rows(x);
        add_round_key(x, key->round_keys[key->rounds]);
        store_planes(out, x, group);
        in += AES_BLOCK * group;
        out += AES_BLOCK * group;
        blocks -= group;
    }
}

static void portable_decrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks)
{
    uint64_t x[8];
    while (blocks) {
        unsigned group = blocks < PORTABLE_TOGETHER ? (unsigned)blocks : PORTABLE_TOGETHER;
        load_planes(x, in, group);
        add_round_key(x, key->round_keys[key->rounds]);
        for (unsigned r = key->rounds - 1; r > 0; r--) {
            inverse_shift_rows(x);
            inverse_substitute_bytes(x);
            add_round_key(x, key->round_keys[r]);
            inverse_mix_columns(x);
        }
        inverse_shift_rows(x);
        inverse_substitute_bytes(x);
        add_round_key(x, key->round_keys[0]);
        store_planes(out, x, group);
        in += AES_BLOCK * group;
        out += AES_BLOCK * group;
        blocks -= group;
    }
}

static void portable_absorb(const aes_key *key, uint8_t state[AES_BLOCK], const uint8_t *data,
                            size_t blocks)
{
    for (; blocks; blocks--, data += AES_BLOCK) {
        for (int i = 0; i < AES_BLOCK; i++)
            state[i] ^= data[i];
        portable_encrypt(key, state, state, 1);
    }
}

#endif
