/* Messages that go through a cipher side by side, each under its own key: what DES and AES share. */
#ifndef FASTPATH_LANES_H
#define FASTPATH_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES_MAX 256
#define LANE_STEPS_MAX 0xFFFF /* longer messages go alone: company gains them nothing */

/* One message or block: whole blocks, then perhaps one more. */
typedef struct {
    const void *key;
    const uint8_t *data;
    size_t whole;     /* blocks at `data` */
    uint8_t last[16]; /* the padded one behind them */
    uint8_t has_last;
    uint8_t result[16];
} cipher_lane;

static inline size_t lane_blocks(const cipher_lane *lane)
{
    return lane->whole + lane->has_last;
}

/* Block `step` of a lane; its blocks end with the last step, however many it has. */
static inline const uint8_t *lane_block(const cipher_lane *lane, size_t step, size_t steps,
                                        size_t block_length)
{
    size_t n = step - (steps - lane_blocks(lane));
    return n < lane->whole ? lane->data + block_length * n : lane->last;
}

/* Where block 0 would be if the lane had as many blocks as there are steps: block `step` is so many
 * further on, as long as it is not the padded one. Only to be added to. */
static inline uintptr_t lane_base(const cipher_lane *lane, size_t steps, size_t block_length)
{
    return (uintptr_t)lane->data - block_length * (steps - lane_blocks(lane));
}

/* How many of `count` sorted lanes have begun by this step, `running` of them before it. */
static inline unsigned lanes_started(cipher_lane *const *lanes, unsigned count, unsigned running,
                                     size_t step, size_t steps)
{
    while (running < count && lane_blocks(lanes[running]) >= steps - step)
        running++;
    return running;
}

/* By falling number of blocks: the two bytes of that number one after the other. */
static inline void sort_lanes(cipher_lane **lanes, size_t count)
{
    cipher_lane *other[LANES_MAX];
    for (unsigned shift = 0; shift < 16; shift += 8) {
        unsigned starts[257] = {0};
        for (size_t i = 0; i < count; i++)
            starts[256 - (lane_blocks(lanes[i]) >> shift & 0xFF)]++;
        for (unsigned i = 1; i < 257; i++)
            starts[i] += starts[i - 1];
        for (size_t i = 0; i < count; i++)
            other[starts[255 - (lane_blocks(lanes[i]) >> shift & 0xFF)]++] = lanes[i];
        memcpy(lanes, other, count * sizeof *lanes);
    }
}

/* Sorts where there is anything to sort. */
static inline void arrange_lanes(cipher_lane **lanes, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (lane_blocks(lanes[i]) != lane_blocks(lanes[0])) {
            sort_lanes(lanes, count);
            return;
        }
}

/* How many of `count` sorted lanes are to go together, at most `width`: 0 when the first is so much
 * longer than the others that they would wait for it, or when there are too few. `worth` lanes of
 * one length take as long one by one as together. */
static inline size_t lanes_together(cipher_lane *const *lanes, size_t count, size_t width,
                                    size_t worth)
{
    size_t group = count < width ? count : width, blocks = 0;
    for (size_t i = 0; i < group; i++)
        blocks += lane_blocks(lanes[i]);
    if (lane_blocks(lanes[0]) > LANE_STEPS_MAX || blocks < worth * lane_blocks(lanes[0]))
        return 0;
    return group;
}

#endif
