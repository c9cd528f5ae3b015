/* The slots of a token table: digests in ascending order, each at its home or after it.
 *
 * A slot is 12 bytes of digest and the card's id, lowest byte first; id 0 is an empty slot, all
 * zero. The home of a digest is its leading 64 bits scaled to the capacity, so that homes ascend
 * with digests: a look-up walks from the home until it meets an empty slot or a greater digest.
 * There is no wrapping round; a few slots follow the capacity, and the last one is empty.
 */
#ifndef FASTPATH_TOKEN_SLOTS_H
#define FASTPATH_TOKEN_SLOTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_LENGTH 12
#define SLOT_LENGTH 16

typedef struct {
    uint8_t digest[DIGEST_LENGTH];
    uint8_t id[4];
} token_slot;

static inline uint64_t high_first64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline uint32_t high_first32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static inline const uint8_t *slot_digest(const token_slot *slot)
{
    return slot->digest;
}

static inline uint32_t slot_id(const token_slot *slot)
{
    return (uint32_t)slot->id[3] << 24 | (uint32_t)slot->id[2] << 16 |
           (uint32_t)slot->id[1] << 8 | slot->id[0];
}

static inline void slot_fill(token_slot *slot, const uint8_t digest[DIGEST_LENGTH], uint32_t id)
{
    memcpy(slot->digest, digest, DIGEST_LENGTH);
    for (int i = 0; i < 4; i++)
        slot->id[i] = (uint8_t)(id >> (8 * i));
}

static inline uint64_t slot_home(const uint8_t digest[DIGEST_LENGTH], uint64_t capacity)
{
    return (uint64_t)((unsigned __int128)high_first64(digest) * capacity >> 64);
}

/* For qsort. */
static int slot_order(const void *one, const void *other)
{
    return memcmp(one, other, DIGEST_LENGTH);
}

/* A probe often goes on into the next line: both are asked for. */
static inline void slot_prefetch(const token_slot *slots, uint64_t capacity,
                                 const uint8_t digest[DIGEST_LENGTH])
{
    const char *home = (const char *)&slots[slot_home(digest, capacity)];
    __builtin_prefetch(home);
    __builtin_prefetch(home + 48);
}

/* The id of `digest`, 0 when it is not in the table of `total` slots. */
static inline uint32_t slot_find(const token_slot *slots, uint64_t capacity, uint64_t total,
                                 const uint8_t digest[DIGEST_LENGTH])
{
    uint64_t leading = high_first64(digest);
    uint32_t trailing = high_first32(digest + 8);
    for (uint64_t i = slot_home(digest, capacity); i < total; i++) {
        uint32_t id = slot_id(&slots[i]);
        uint64_t here = high_first64(slots[i].digest);
        if (id == 0 || here > leading)
            return 0;
        if (here == leading && high_first32(slots[i].digest + 8) == trailing)
            return id;
    }
    return 0;
}

/* Guards against damage, not against malice: two running products over all slots. */
typedef struct {
    uint64_t one, two;
} slot_sum;

static inline slot_sum slot_sum_start(uint64_t capacity, uint64_t count)
{
    slot_sum sum = {capacity, count};
    return sum;
}

static inline void slot_sum_add(slot_sum *sum, const token_slot *slot)
{
    uint64_t one = sum->one ^ high_first64(slot->digest);
    uint64_t two = sum->two ^ high_first64(slot->digest + 8);
    one *= 0x9E3779B97F4A7C15ull;
    two *= 0xC2B2AE3D27D4EB4Full;
    sum->one = one << 29 | one >> 35;
    sum->two = two << 31 | two >> 33;
}

static inline uint64_t slot_sum_end(const slot_sum *sum)
{
    return sum->one ^ (sum->two << 17 | sum->two >> 47);
}

/* Whether `total` slots are a table of `count` entries as described above, with that checksum. */
static inline int slots_hold(const token_slot *slots, uint64_t capacity, uint64_t total,
                             uint64_t count, uint64_t checksum)
{
    static const token_slot empty;
    slot_sum sum = slot_sum_start(capacity, count);
    uint64_t found = 0, run_start = 0, leading_before = 0;
    const token_slot *previous = NULL;
    for (uint64_t i = 0; i < total; i++) {
        const token_slot *slot = &slots[i];
        slot_sum_add(&sum, slot);
        if (slot_id(slot) == 0) {
            if (memcmp(slot, &empty, SLOT_LENGTH) != 0)
                return 0;
            run_start = i + 1;
            continue;
        }
        uint64_t home = slot_home(slot->digest, capacity), leading = high_first64(slot->digest);
        if (home > i || home < run_start || leading < leading_before)
            return 0;
        if (leading == leading_before && previous != NULL && slot_order(previous, slot) >= 0)
            return 0;
        previous = slot;
        leading_before = leading;
        found++;
    }
    return found == count && run_start == total && slot_sum_end(&sum) == checksum;
}

/* What was added since the table was built: one writer at a time, readers at any time. An entry is
 * seen when its id is, which is written last; areas that were outgrown stay until the end, for
 * whoever still reads them. Digests are evenly spread, so that their first bits say where to look. */
typedef struct additions_area {
    struct additions_area *outgrown;
    uint64_t room; /* a power of two */
    token_slot slots[];
} additions_area;

typedef struct {
    additions_area *area;
    uint64_t count;
} token_additions;

#define ADDITIONS_FIRST_ROOM 64

static inline additions_area *additions_area_new(uint64_t room, additions_area *outgrown)
{
    additions_area *area = calloc(1, sizeof *area + room * sizeof(token_slot));
    if (area != NULL) {
        area->room = room;
        area->outgrown = outgrown;
    }
    return area;
}

static inline token_additions *additions_new(void)
{
    token_additions *additions = calloc(1, sizeof *additions);
    if (additions == NULL)
        return NULL;
    additions->area = additions_area_new(ADDITIONS_FIRST_ROOM, NULL);
    if (additions->area == NULL) {
        free(additions);
        return NULL;
    }
    return additions;
}

static inline void additions_free(token_additions *additions)
{
    if (additions == NULL)
        return;
    for (additions_area *area = additions->area; area != NULL;) {
        additions_area *outgrown = area->outgrown;
        free(area);
        area = outgrown;
    }
    free(additions);
}

static inline uint64_t additions_count(const token_additions *additions)
{
    return additions->count;
}

/* An id as one word, so that it is seen whole or not at all. */
static inline uint32_t *additions_id(const token_slot *slot)
{
    return (uint32_t *)(uintptr_t)slot->id; /* 12 bytes into a slot of 16: aligned */
}

/* The slot of `digest`, or the empty one where it would go: for the writer, whose slots stand
 * still. */
static inline token_slot *additions_slot(additions_area *area, const uint8_t digest[DIGEST_LENGTH])
{
    uint64_t at = high_first64(digest) & (area->room - 1);
    while (slot_id(&area->slots[at]) != 0 &&
           memcmp(area->slots[at].digest, digest, DIGEST_LENGTH) != 0)
        at = (at + 1) & (area->room - 1);
    return &area->slots[at];
}

static inline void additions_fill(token_slot *slot, const uint8_t digest[DIGEST_LENGTH],
                                  uint32_t card_id)
{
    token_slot filled;
    uint32_t id;
    slot_fill(&filled, digest, card_id);
    memcpy(&id, filled.id, sizeof id);
    memcpy(slot->digest, digest, DIGEST_LENGTH);
    __atomic_store_n(additions_id(slot), id, __ATOMIC_RELEASE);
}

/* Adds a digest that is not there yet. -1 without memory. */
static inline int additions_put(token_additions *additions, const uint8_t digest[DIGEST_LENGTH],
                                uint32_t card_id)
{
    additions_area *area = additions->area;
    if (2 * additions->count >= area->room) {
        additions_area *wider = additions_area_new(2 * area->room, area);
        if (wider == NULL)
            return -1;
        for (uint64_t i = 0; i < area->room; i++)
            if (slot_id(&area->slots[i]) != 0)
                additions_fill(additions_slot(wider, area->slots[i].digest), area->slots[i].digest,
                               slot_id(&area->slots[i]));
        __atomic_store_n(&additions->area, wider, __ATOMIC_RELEASE);
        area = wider;
    }
    additions_fill(additions_slot(area, digest), digest, card_id);
    additions->count++;
    return 0;
}

/* The id of `digest`, 0 when it was not added. Each slot's id is looked at once: a slot that was empty
 * may be another card's a moment later. */
static inline uint32_t additions_find(const token_additions *additions,
                                      const uint8_t digest[DIGEST_LENGTH])
{
    additions_area *area = __atomic_load_n(&additions->area, __ATOMIC_ACQUIRE);
    for (uint64_t at = high_first64(digest);; at++) {
        const token_slot *slot = &area->slots[at & (area->room - 1)];
        if (__atomic_load_n(additions_id(slot), __ATOMIC_ACQUIRE) == 0)
            return 0;
        if (memcmp(slot->digest, digest, DIGEST_LENGTH) == 0)
            return slot_id(slot);
    }
}

/* The additions one after the other: `place` begins with 0; NULL behind the last. */
static inline const token_slot *additions_next(const token_additions *additions, uint64_t *place)
{
    additions_area *area = additions->area;
    while (*place < area->room) {
        const token_slot *slot = &area->slots[(*place)++];
        if (slot_id(slot) != 0)
            return slot;
    }
    return NULL;
}

#endif
