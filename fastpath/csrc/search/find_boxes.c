/* Finds the circuits of ../des_boxes.h: the eight S-boxes of DES in two-input gates.
 *
 *   gcc -O3 -march=native -o find_boxes find_boxes.c && ./find_boxes SECONDS_PER_BOX SEED
 *
 * A function is a truth table of 64 bits, of which a mask says which matter. What is wanted is
 * looked for among the gates that are there, then as one more gate, then as two; where that does
 * not do it is split by an input, f = g ^ (x & h): g where x is 0, and h where x is 1, with half
 * of the bits that matter each. Orders of inputs and outputs are drawn at random, over and over;
 * a search is dropped as soon as it needs as many gates as the best one found. Not part of any
 * module.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../des_tables.h"

#define GATES_MAX 120
#define NONE (-1)

enum kind { INPUT, AND, OR, XOR, ANDNOT, NOT };

typedef struct {
    uint64_t table[GATES_MAX];
    uint8_t kind[GATES_MAX], one[GATES_MAX], other[GATES_MAX];
    int count, most;
} circuit;

static uint64_t random_state;

static unsigned draw(unsigned below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 11) % below);
}

static void shuffle(uint8_t *items, unsigned count)
{
    for (unsigned i = count; i > 1; i--) {
        unsigned j = draw(i);
        uint8_t kept = items[i - 1];
        items[i - 1] = items[j];
        items[j] = kept;
    }
}

static uint64_t apply(int kind, uint64_t one, uint64_t other)
{
    switch (kind) {
    case AND: return one & other;
    case OR: return one | other;
    case XOR: return one ^ other;
    case ANDNOT: return one & ~other;
    default: return ~one;
    }
}

static int add_gate(circuit *c, int kind, int one, int other)
{
    if (c->count >= c->most)
        return NONE;
    c->table[c->count] = apply(kind, c->table[one], c->table[other]);
    c->kind[c->count] = (uint8_t)kind;
    c->one[c->count] = (uint8_t)one;
    c->other[c->count] = (uint8_t)other;
    return c->count++;
}

static int one_gate(circuit *c, uint64_t target, uint64_t mask)
{
    for (int i = c->count - 1; i >= 0; i--) {
        uint64_t a = c->table[i];
        for (int j = i - 1; j >= 0; j--) {
            uint64_t b = c->table[j];
            if (!(((a ^ b) ^ target) & mask)) return add_gate(c, XOR, i, j);
            if (!(((a & b) ^ target) & mask)) return add_gate(c, AND, i, j);
            if (!(((a | b) ^ target) & mask)) return add_gate(c, OR, i, j);
            if (!(((a & ~b) ^ target) & mask)) return add_gate(c, ANDNOT, i, j);
            if (!(((b & ~a) ^ target) & mask)) return add_gate(c, ANDNOT, j, i);
        }
    }
    return NONE;
}

/* target = (a op b) op2 k: what (a op b) has to be follows from k. */
static int two_gates(circuit *c, uint64_t target, uint64_t mask)
{
    if (c->count + 2 > c->most)
        return NONE;
    for (int i = c->count - 1; i > 0; i--)
        for (int j = i - 1; j >= 0; j--) {
            uint64_t a = c->table[i], b = c->table[j];
            uint64_t made[5] = {a ^ b, a & b, a | b, a & ~b, b & ~a};
            for (int op = 0; op < 5; op++) {
                uint64_t m = made[op];
                for (int k = 0; k < c->count; k++) {
                    uint64_t t = c->table[k];
                    int last;
                    if (!(((m ^ t) ^ target) & mask)) last = XOR;
                    else if (!(((m & t) ^ target) & mask)) last = AND;
                    else if (!(((m | t) ^ target) & mask)) last = OR;
                    else if (!(((m & ~t) ^ target) & mask)) last = ANDNOT;
                    else if (!(((t & ~m) ^ target) & mask)) last = NOT;
                    else continue;
                    static const int kinds[5] = {XOR, AND, OR, ANDNOT, ANDNOT};
                    int first = op == 4 ? add_gate(c, ANDNOT, j, i) : add_gate(c, kinds[op], i, j);
                    return last == NOT ? add_gate(c, ANDNOT, k, first)
                                       : add_gate(c, last, first, k);
                }
            }
        }
    return NONE;
}

static int make(circuit *c, uint64_t target, uint64_t mask, const uint8_t *order, int depth);

static int split(circuit *c, uint64_t target, uint64_t mask, const uint8_t *order, int depth)
{
    circuit best, tried;
    int found = NONE, x = order[depth], variants = depth < 2 ? 3 : 2;
    best.count = GATES_MAX;
    for (int variant = 0; variant < variants; variant++) {
        uint64_t bit = c->table[x];
        tried = *c;
        if (found != NONE)
            tried.most = best.count - 1;
        int result = NONE;
        if (variant == 0) { /* g ^ (x & h) */
            int g = make(&tried, target, mask & ~bit, order, depth + 1);
            int h = g == NONE ? NONE
                              : make(&tried, target ^ tried.table[g], mask & bit, order, depth + 1);
            int product = h == NONE ? NONE : add_gate(&tried, AND, h, x);
            result = product == NONE ? NONE : add_gate(&tried, XOR, g, product);
        } else if (variant == 1) { /* g ^ (h & ~x) */
            int g = make(&tried, target, mask & bit, order, depth + 1);
            int h = g == NONE ? NONE
                              : make(&tried, target ^ tried.table[g], mask & ~bit, order, depth + 1);
            int product = h == NONE ? NONE : add_gate(&tried, ANDNOT, h, x);
            result = product == NONE ? NONE : add_gate(&tried, XOR, g, product);
        } else { /* g ^ (h | x): where x is 1 the target is the complement of g */
            int g = make(&tried, ~target, mask & bit, order, depth + 1);
            int h = g == NONE ? NONE
                              : make(&tried, target ^ tried.table[g], mask & ~bit, order, depth + 1);
            int sum = h == NONE ? NONE : add_gate(&tried, OR, h, x);
            result = sum == NONE ? NONE : add_gate(&tried, XOR, g, sum);
        }
        if (result != NONE && (found == NONE || tried.count < best.count)) {
            best = tried;
            found = result;
        }
    }
    if (found != NONE) {
        int most = c->most;
        *c = best;
        c->most = most;
    }
    return found;
}

static int make(circuit *c, uint64_t target, uint64_t mask, const uint8_t *order, int depth)
{
    for (int i = c->count - 1; i >= 0; i--)
        if (!((c->table[i] ^ target) & mask))
            return i;
    if (c->count >= c->most)
        return NONE;
    for (int i = c->count - 1; i >= 0; i--)
        if (!((~c->table[i] ^ target) & mask))
            return add_gate(c, NOT, i, i);
    int found = one_gate(c, target, mask);
    if (found == NONE)
        found = two_gates(c, target, mask);
    return found == NONE && depth < 6 && c->count + 3 <= c->most ? split(c, target, mask, order, depth)
                                                                 : found;
}

static void start(circuit *c, int most)
{
    c->count = 6;
    c->most = most;
    for (int i = 0; i < 6; i++) {
        c->kind[i] = INPUT;
        c->table[i] = 0;
        for (int n = 0; n < 64; n++)
            c->table[i] |= (uint64_t)(n >> (5 - i) & 1) << n;
    }
}

static void print(const circuit *c, const int *outputs, int box)
{
    static const char *signs[] = {"", "&", "|", "^", "& ~"};
    printf("/* %d gates */\nSLICE_BOX(%d)\n{\n", c->count - 6, box + 1);
    for (int i = 6; i < c->count; i++)
        if (c->kind[i] == NOT)
            printf("    slice g%d = ~g%d;\n", i, c->one[i]);
        else
            printf("    slice g%d = g%d %s%s%d;\n", i, c->one[i], signs[c->kind[i]],
                   c->kind[i] == ANDNOT ? "g" : " g", c->other[i]);
    for (int i = 0; i < 4; i++)
        printf("    SLICE_OUT(%d, %d, g%d)\n", box + 1, i, outputs[i]);
    printf("}\n\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 10;
    random_state = argc > 2 ? strtoull(argv[2], NULL, 10) * 0x9E3779B97F4A7C15ull + 1 : 88172645463325252ull;
    int first = argc > 3 ? atoi(argv[3]) - 1 : 0, last = argc > 4 ? atoi(argv[4]) : 8;
    for (int box = first; box < last; box++) {
        uint64_t wanted[4] = {0};
        for (int n = 0; n < 64; n++) {
            int row = (n >> 5) << 1 | (n & 1), column = n >> 1 & 15;
            for (int k = 0; k < 4; k++)
                wanted[k] |= (uint64_t)(S_BOXES[box][row][column] >> (3 - k) & 1) << n;
        }
        circuit best;
        int best_outputs[4], most = GATES_MAX;
        time_t end = time(NULL) + (time_t)seconds;
        while (time(NULL) < end) {
            uint8_t order[4] = {0, 1, 2, 3};
            int outputs[4], k = 0;
            circuit c;
            shuffle(order, 4);
            start(&c, most);
            for (; k < 4; k++) {
                uint8_t inputs[6] = {0, 1, 2, 3, 4, 5};
                shuffle(inputs, 6);
                outputs[order[k]] = make(&c, wanted[order[k]], ~0ull, inputs, 0);
                if (outputs[order[k]] == NONE)
                    break;
            }
            if (k == 4) {
                best = c;
                memcpy(best_outputs, outputs, sizeof outputs);
                most = c.count - 1;
                fprintf(stderr, "box %d: %d gates\n", box + 1, c.count - 6);
            }
        }
        print(&best, best_outputs, box);
    }
    return 0;
}
