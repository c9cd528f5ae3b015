#include "aes.h"

#include "aes_core.h"
#include "aes_ni.h"
#include "aes_portable_lanes.h"

static const struct aes_core *fastest = &PORTABLE;
static const struct aes_core *chosen = &PORTABLE;

void aes_startup(void)
{
#if AES_HAVE_NI
    if (processor_has_ni())
        fastest = &NI_CORE;
#endif
    chosen = fastest;
}

void aes_force_portable(int portable)
{
    chosen = portable ? &PORTABLE : fastest;
}

const char *aes_implementation(void)
{
    return chosen->name;
}

static uint32_t load_word(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void store_word(uint8_t *to, uint32_t word)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(word >> (8 * i));
}

/* Key expansion, FIPS 197 section 5.2; words are held first byte lowest. */
void aes_schedule(aes_key *key, const uint8_t *bytes, size_t length)
{
    unsigned key_words = (unsigned)length / 4;
    uint8_t *words = &key->round_keys[0][0];
    uint32_t round_constant = 1;
    key->core = chosen;
    key->rounds = key_words + 6;
    memset(key->round_keys, 0, sizeof key->round_keys);
    memcpy(words, bytes, length);
    for (unsigned i = key_words; i < 4 * (key->rounds + 1); i++) {
        uint32_t word = load_word(words + 4 * (i - 1));
        if (i % key_words == 0) {
            word = chosen->substitute_word(word >> 8 | word << 24) ^ round_constant;
            round_constant = (round_constant << 1) ^ (round_constant & 0x80 ? 0x11B : 0);
        } else if (key_words > 6 && i % key_words == 4) {
            word = chosen->substitute_word(word);
        }
        store_word(words + 4 * i, word ^ load_word(words + 4 * (i - key_words)));
    }
    for (unsigned r = 0; r <= key->rounds; r++)
        chosen->keep_round_key(key->round_keys[r]);
}

void aes_encrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks)
{
    key->core->encrypt(key, in, out, blocks);
}

void aes_decrypt(const aes_key *key, const uint8_t *in, uint8_t *out, size_t blocks)
{
    key->core->decrypt(key, in, out, blocks);
}

void aes_cmac_schedule(aes_cmac_key *key, const uint8_t *bytes, size_t length)
{
    aes_schedule(&key->key, bytes, length);
    memset(key->whole, 0, AES_BLOCK);
    aes_encrypt(&key->key, key->whole, key->whole, 1);
    double_block(key->whole, AES_BLOCK, 0x87);
    memcpy(key->partial, key->whole, AES_BLOCK);
    double_block(key->partial, AES_BLOCK, 0x87);
}

/* The last block, complete or padded, has its subkey added. */
static void take_message(cipher_lane *lane, const aes_message *message)
{
    const aes_cmac_key *key = message->key;
    size_t rest;
    lane->key = &key->key;
    lane->data = message->data;
    lane->whole = message->size ? (message->size - 1) / AES_BLOCK : 0;
    lane->has_last = 1;
    rest = message->size - AES_BLOCK * lane->whole;
    memset(lane->last, 0, AES_BLOCK);
    if (rest)
        memcpy(lane->last, message->data + AES_BLOCK * lane->whole, rest);
    if (rest < AES_BLOCK)
        lane->last[rest] = 0x80;
    for (int i = 0; i < AES_BLOCK; i++)
        lane->last[i] ^= rest < AES_BLOCK ? key->partial[i] : key->whole[i];
}

static void run_one(cipher_lane *lane)
{
    const aes_key *key = lane->key;
    memset(lane->result, 0, AES_BLOCK);
    key->core->absorb(key, lane->result, lane->data, lane->whole);
    key->core->absorb(key, lane->result, lane->last, 1);
}

/* At most LANES_MAX lanes of any keys and lengths: those of one core and key length together. */
static void run_lanes(cipher_lane *all, size_t count, const struct aes_core *core, unsigned rounds)
{
    cipher_lane *alike[LANES_MAX], **lanes = alike;
    size_t left = 0;
    for (size_t n = 0; n < count; n++) {
        const aes_key *key = all[n].key;
        if (key->core == core && key->rounds == rounds)
            lanes[left++] = &all[n];
    }
    arrange_lanes(lanes, left);
    while (left) {
        size_t group = lanes_together(lanes, left, core->width, 2);
        if (group)
            core->run(lanes, (unsigned)group);
        else
            run_one(lanes[0]);
        group += !group;
        lanes += group;
        left -= group;
    }
}

void aes_cmacs(const aes_message *messages, size_t count)
{
    cipher_lane lanes[LANES_MAX];
    while (count) {
        size_t group = count < LANES_MAX ? count : LANES_MAX;
        for (size_t i = 0; i < group; i++)
            take_message(&lanes[i], &messages[i]);
        for (unsigned rounds = 10; rounds <= AES_ROUNDS_MAX; rounds += 2) {
            run_lanes(lanes, group, &PORTABLE, rounds);
            if (fastest != &PORTABLE)
                run_lanes(lanes, group, fastest, rounds);
        }
        for (size_t i = 0; i < group; i++)
            memcpy(messages[i].mac, lanes[i].result, AES_BLOCK);
        wipe(lanes, group * sizeof lanes[0]);
        messages += group;
        count -= group;
    }
}
