/* What the ciphers share: wiping, comparing without leaving traces, bits of blocks. */
#ifndef FASTPATH_SECRET_H
#define FASTPATH_SECRET_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Overwrites `size` bytes; the empty asm keeps the compiler from dropping the store as dead. */
static inline void wipe(void *memory, size_t size)
{
    memset(memory, 0, size);
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

/* 1 when both areas are equal. The time depends on `size` only, not on where they differ. */
static inline int same_bytes(const uint8_t *one, const uint8_t *other, size_t size)
{
    uint32_t difference = 0;
    for (size_t i = 0; i < size; i++)
        difference |= (uint32_t)(one[i] ^ other[i]);
    return (int)((difference - 1) >> 31);
}

/* Transposes an 8 x 8 bit matrix, one row a byte: bit j of byte i <-> bit i of byte j. */
static inline uint64_t transpose8(uint64_t x)
{
    uint64_t swap = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
    x ^= swap ^ (swap << 7);
    swap = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
    x ^= swap ^ (swap << 14);
    swap = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
    return x ^ swap ^ (swap << 28);
}

/* Eight bytes as a number, first byte lowest, on any machine. */
static inline uint64_t load64_low_first(const uint8_t *from)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | from[i];
    return value;
}

static inline void store64_low_first(uint8_t *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

/* Doubling in GF(2^64) or GF(2^128), highest bit first (SP 800-38B 6.1), without a branch.
 * `polynomial`: 0x1B for 8 bytes, 0x87 for 16. */
static inline void double_block(uint8_t *block, size_t size, uint8_t polynomial)
{
    uint8_t carry = (uint8_t)-(block[0] >> 7);
    for (size_t i = 0; i + 1 < size; i++)
        block[i] = (uint8_t)(block[i] << 1 | block[i + 1] >> 7);
    block[size - 1] = (uint8_t)((block[size - 1] << 1) ^ (carry & polynomial));
}

#endif
