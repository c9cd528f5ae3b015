#include "aes.h"

#include "aes_core.h"
#include "aes_ni.h"
#include "aes_portable.h"

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

void aes_cmac(const aes_cmac_key *key, const uint8_t *data, size_t size, uint8_t mac[AES_BLOCK])
{
    size_t before_last = size ? (size - 1) / AES_BLOCK : 0;
    size_t rest = size - AES_BLOCK * before_last;
    uint8_t last[AES_BLOCK] = {0};
    if (rest)
        memcpy(last, data + AES_BLOCK * before_last, rest);
    if (rest < AES_BLOCK)
        last[rest] = 0x80;
    const uint8_t *subkey = rest < AES_BLOCK ? key->partial : key->whole;
    for (int i = 0; i < AES_BLOCK; i++)
        last[i] ^= subkey[i];
    memset(mac, 0, AES_BLOCK);
    key->key.core->absorb(&key->key, mac, data, before_last);
    key->key.core->absorb(&key->key, mac, last, 1);
    wipe(last, sizeof last);
}
