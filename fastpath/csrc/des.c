#include "des.h"

#include "des_core.h"
#include "des_portable.h"
#include "des_vbmi.h"
#include "des_wide.h"

/* Bit slices in the width of any 64-bit machine's vectors; a compiler without them makes two words
 * of it. */
#define SLICE(name) portable_slices_##name
#define SLICE_WORDS 2
#define SLICE_TARGET
#include "des_slices.h"

static int runs_everywhere(void)
{
    return 1;
}

#if DES_HAVE_WIDE
#define SLICE(name) avx2_slices_##name
#define SLICE_WORDS 4
#define SLICE_TARGET __attribute__((target("avx2")))
#include "des_slices.h"

/* Not wider than AVX2: twice the registers, and two gates of a circuit in one instruction. */
#define SLICE(name) avx512_slices_##name
#define SLICE_WORDS 4
#define SLICE_TARGET __attribute__((target("avx2,avx512f,avx512vl")))
#include "des_slices.h"

static int processor_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}

static int processor_has_avx512(void)
{
    return processor_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

/* The fastest first. `worth` was measured: what a full turn of the lanes takes, in messages. */
static const struct des_path PATHS[] = {
#if DES_HAVE_WIDE
    {"avx512-vbmi", &WIDE_CORE, vbmi_run, VBMI_LANES, 3, processor_has_vbmi},
    {"avx512", &PORTABLE, avx512_slices_run, 256, 7, processor_has_avx512},
    {"avx2", &PORTABLE, avx2_slices_run, 256, 7, processor_has_avx2},
#endif
    {"portable", &PORTABLE, portable_slices_run, 128, 7, runs_everywhere},
};
#define PATH_COUNT (sizeof PATHS / sizeof PATHS[0])

static const struct des_path *here[PATH_COUNT];
static unsigned here_count;
static const struct des_path *chosen;

void des_startup(void)
{
    if (here_count)
        return;
    fill_bits();
    fill_portable();
    portable_slices_fill();
#if DES_HAVE_WIDE
    fill_wide();
    fill_vbmi();
    avx2_slices_fill();
    avx512_slices_fill();
#endif
    for (unsigned i = 0; i < PATH_COUNT; i++)
        if (PATHS[i].runs_here())
            here[here_count++] = &PATHS[i];
    chosen = here[0];
}

const char *des_path_name(unsigned n)
{
    return n < here_count ? here[n]->name : NULL;
}

void des_use_path(unsigned n)
{
    chosen = here[n];
}

const char *des_implementation(void)
{
    return chosen->name;
}

void tdes_schedule(tdes_key *key, const uint8_t *bytes, size_t length)
{
    key->path = chosen;
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *part = bytes + (8 * i < length ? 8 * i : 0);
        key->whole[i] = load64_low_first(part);
        chosen->core->schedule(key->round_keys[i], part);
    }
}

static des_state tdes_encrypt_state(const tdes_key *key, des_state state)
{
    state = key->path->core->rounds(state, key->round_keys[0], 0);
    state = key->path->core->rounds(state, key->round_keys[1], 1);
    return key->path->core->rounds(state, key->round_keys[2], 0);
}

static des_state tdes_decrypt_state(const tdes_key *key, des_state state)
{
    state = key->path->core->rounds(state, key->round_keys[2], 1);
    state = key->path->core->rounds(state, key->round_keys[1], 0);
    return key->path->core->rounds(state, key->round_keys[0], 1);
}

static des_state plus(des_state one, des_state other)
{
    des_state sum = {one.left ^ other.left, one.right ^ other.right};
    return sum;
}

/* One lane alone. */
static void run_one(cipher_lane *lane, enum des_work work)
{
    const tdes_key *key = lane->key;
    const struct des_core *core = key->path->core;
    size_t blocks = lane_blocks(lane);
    des_state state = {0, 0};
    if (work == RETAIL) {
        state = core->absorb(state, key->round_keys[0], lane->data, lane->whole);
        if (lane->has_last)
            state = core->absorb(state, key->round_keys[0], lane->last, 1);
        state = core->rounds(state, key->round_keys[1], 1);
        state = core->rounds(state, key->round_keys[0], 0);
    } else {
        for (size_t i = 0; i < blocks; i++) {
            state = plus(state, core->load(lane_block(lane, i, blocks, DES_BLOCK)));
            state = work == TRIPLE ? tdes_encrypt_state(key, state)
                                   : tdes_decrypt_state(key, state);
        }
    }
    core->store(lane->result, state);
}

/* At most LANES_MAX lanes of any keys and lengths: those of one path together. */
static void run_lanes(cipher_lane *all, size_t count, enum des_work work)
{
    cipher_lane *of_path[LANES_MAX];
    for (unsigned i = 0; i < here_count; i++) {
        const struct des_path *path = here[i];
        cipher_lane **lanes = of_path;
        size_t left = 0;
        for (size_t n = 0; n < count; n++)
            if (((const tdes_key *)all[n].key)->path == path)
                lanes[left++] = &all[n];
        arrange_lanes(lanes, left);
        while (left) {
            size_t group = lanes_together(lanes, left, path->width, path->worth);
            if (group)
                path->run(lanes, (unsigned)group, work);
            else
                run_one(lanes[0], work);
            group += !group;
            lanes += group;
            left -= group;
        }
    }
}

/* Every block by itself. */
static void tdes_blocks(const tdes_key *key, int decrypt, const uint8_t *in, uint8_t *out,
                        size_t blocks)
{
    cipher_lane lanes[LANES_MAX];
    while (blocks) {
        size_t count = blocks < LANES_MAX ? blocks : LANES_MAX;
        for (size_t i = 0; i < count; i++) {
            lanes[i].key = key;
            lanes[i].data = in + DES_BLOCK * i;
            lanes[i].whole = 1;
            lanes[i].has_last = 0;
        }
        run_lanes(lanes, count, decrypt ? UNTRIPLE : TRIPLE);
        for (size_t i = 0; i < count; i++)
            memcpy(out + DES_BLOCK * i, lanes[i].result, DES_BLOCK);
        wipe(lanes, count * sizeof lanes[0]);
        in += DES_BLOCK * count;
        out += DES_BLOCK * count;
        blocks -= count;
    }
}

void tdes_ecb(const tdes_key *key, int decrypt, const uint8_t *in, uint8_t *out, size_t blocks)
{
    tdes_blocks(key, decrypt, in, out, blocks);
}

void tdes_cbc(const tdes_key *key, int decrypt, const uint8_t chain[DES_BLOCK], const uint8_t *in,
              uint8_t *out, size_t blocks)
{
    const struct des_core *core = key->path->core;
    des_state previous = core->load(chain);
    if (decrypt) {
        tdes_blocks(key, 1, in, out, blocks);
        for (size_t i = 0; i < blocks; i++)
            for (unsigned n = 0; n < DES_BLOCK; n++)
                out[DES_BLOCK * i + n] ^= i ? in[DES_BLOCK * (i - 1) + n] : chain[n];
        return;
    }
    for (size_t i = 0; i < blocks; i++) {
        previous = tdes_encrypt_state(key, plus(core->load(in + DES_BLOCK * i), previous));
        core->store(out + DES_BLOCK * i, previous);
    }
}

static void take_message(cipher_lane *lane, const des_message *message)
{
    size_t rest = message->size % DES_BLOCK;
    lane->key = message->key;
    lane->data = message->data;
    lane->whole = message->size / DES_BLOCK;
    lane->has_last = rest || !lane->whole || message->padding == DES_PAD_2;
    memset(lane->last, 0, DES_BLOCK);
    if (rest)
        memcpy(lane->last, message->data + DES_BLOCK * lane->whole, rest);
    if (message->padding == DES_PAD_2)
        lane->last[rest] = 0x80;
}

void des_macs(const des_message *messages, size_t count, enum des_mac algorithm)
{
    cipher_lane lanes[LANES_MAX];
    while (count) {
        size_t group = count < LANES_MAX ? count : LANES_MAX;
        for (size_t i = 0; i < group; i++)
            take_message(&lanes[i], &messages[i]);
        run_lanes(lanes, group, algorithm == DES_MAC_3 ? RETAIL : TRIPLE);
        for (size_t i = 0; i < group; i++)
            memcpy(messages[i].mac, lanes[i].result, DES_BLOCK);
        wipe(lanes, group * sizeof lanes[0]);
        messages += group;
        count -= group;
    }
}

void tdes_cmac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t mac[DES_BLOCK])
{
    const struct des_core *core = key->path->core;
    uint8_t subkey[DES_BLOCK] = {0}, last[DES_BLOCK] = {0};
    size_t before_last = size ? (size - 1) / DES_BLOCK : 0;
    size_t rest = size - DES_BLOCK * before_last;
    tdes_ecb(key, 0, subkey, subkey, 1);
    double_block(subkey, DES_BLOCK, 0x1B);
    if (rest < DES_BLOCK) {
        double_block(subkey, DES_BLOCK, 0x1B);
        last[rest] = 0x80;
    }
    if (rest)
        memcpy(last, data + DES_BLOCK * before_last, rest);
    for (int i = 0; i < DES_BLOCK; i++)
        last[i] ^= subkey[i];
    des_state state = {0, 0};
    for (size_t i = 0; i < before_last; i++)
        state = tdes_encrypt_state(key, plus(state, core->load(data + DES_BLOCK * i)));
    core->store(mac, tdes_encrypt_state(key, plus(state, core->load(last))));
    wipe(subkey, sizeof subkey);
    wipe(last, sizeof last);
}
