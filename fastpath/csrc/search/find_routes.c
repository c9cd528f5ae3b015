/* Finds the tables of ../des_vbmi.h: a place in its byte for every S-box input, such that what P
 * and E do to all eight boxes is three layers of a butterfly of eight registers.
 *
 *   gcc -O3 -o find_routes find_routes.c && ./find_routes SEED
 *
 * Each S-box feeds six inputs of the next round, in six other boxes: a graph of 48 edges from eight
 * boxes to eight. The inputs that share a bit of their bytes (a place) must be a perfect matching,
 * and one that a butterfly can make: 4,096 of the 40,320 permutations. For random orders of the
 * boxes in the registers all such matchings of the graph are listed; six that together are the
 * graph are looked for by exact cover. Not part of any module.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../des_tables.h"

static uint64_t random_state;
static uint64_t edges;                /* bit 8 * to + from, in registers */
static uint64_t matchings[4096];      /* the same, one permutation each */
static unsigned switches[4096];       /* its twelve switches, four a layer */
static int matching_count, chosen[6];

static unsigned draw(unsigned below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 11) % below);
}

static void shuffled(uint8_t order[8])
{
    for (unsigned i = 0; i < 8; i++)
        order[i] = (uint8_t)i;
    for (unsigned i = 8; i > 1; i--) {
        unsigned j = draw(i);
        uint8_t kept = order[i - 1];
        order[i - 1] = order[j];
        order[j] = kept;
    }
}

/* What comes out at each register, layers 4, 2, 1 apart; switch n of a layer swaps its n-th pair. */
static uint64_t permutation(unsigned settings)
{
    uint8_t at[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (unsigned layer = 0; layer < 3; layer++) {
        unsigned apart = 4u >> layer, pair = 0;
        for (unsigned i = 0; i < 8; i++)
            if (!(i & apart)) {
                if (settings >> (4 * layer + pair) & 1) {
                    uint8_t kept = at[i];
                    at[i] = at[i | apart];
                    at[i | apart] = kept;
                }
                pair++;
            }
    }
    uint64_t used = 0;
    for (unsigned i = 0; i < 8; i++)
        used |= 1ull << (8 * i + at[i]);
    return used;
}

static int cover(uint64_t left, int depth)
{
    if (!left)
        return 1;
    uint64_t lowest = left & -left;
    for (int i = 0; i < matching_count; i++)
        if ((matchings[i] & lowest) && !(matchings[i] & ~left)) {
            chosen[depth] = i;
            if (cover(left & ~matchings[i], depth + 1))
                return 1;
        }
    return 0;
}

/* The box that input `input` of box `to` comes from. */
static unsigned source(unsigned to, unsigned input)
{
    return (ROUND_PERMUTATION[(4 * to + input + 31) % 32] - 1u) / 4;
}

int main(int argc, char **argv)
{
    random_state = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1) * 0x9E3779B97F4A7C15ull + 1;
    for (long tries = 1;; tries++) {
        uint8_t from_register[8], to_register[8]; /* of each box */
        shuffled(from_register);
        shuffled(to_register);
        edges = 0;
        for (unsigned to = 0; to < 8; to++)
            for (unsigned input = 0; input < 6; input++)
                edges |= 1ull << (8 * to_register[to] + from_register[source(to, input)]);
        matching_count = 0;
        for (unsigned settings = 0; settings < 4096; settings++) {
            uint64_t used = permutation(settings);
            if (!(used & ~edges)) {
                matchings[matching_count] = used;
                switches[matching_count++] = settings;
            }
        }
        if (!cover(edges, 0))
            continue;
        printf("after %ld orders\nWIDE_POSITION\n", tries);
        for (unsigned to = 0; to < 8; to++) {
            printf("    {");
            for (unsigned input = 0; input < 6; input++)
                for (int place = 0; place < 6; place++)
                    if (matchings[chosen[place]] >>
                            (8 * to_register[to] + from_register[source(to, input)]) & 1)
                        printf("%d%s", place, input < 5 ? ", " : "},\n");
        }
        printf("ROUTE_FROM {");
        for (int i = 0; i < 8; i++)
            printf("%d, ", from_register[i]);
        printf("}\nROUTE_TO {");
        for (int i = 0; i < 8; i++)
            printf("%d, ", to_register[i]);
        printf("}\nswitches, a byte of places each\n");
        for (int layer = 0; layer < 3; layer++) {
            printf("    {");
            for (int pair = 0; pair < 4; pair++) {
                unsigned places = 0;
                for (int place = 0; place < 6; place++)
                    places |= (switches[chosen[place]] >> (4 * layer + pair) & 1) << place;
                printf("0x%02X, ", places);
            }
            printf("},\n");
        }
        return 0;
    }
}
