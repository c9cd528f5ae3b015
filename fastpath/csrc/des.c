#include "des.h"

#include "des_core.h"
#include "des_portable.h"
#include "des_wide.h"

static const struct des_core *fastest = &PORTABLE;
static const struct des_core *chosen = &PORTABLE;

void des_startup(void)
{
    fill_key_bits();
    fill_portable();
#if DES_HAVE_WIDE
    fill_wide();
    if (processor_has_wide())
        fastest = &WIDE_CORE;
#endif
    chosen = fastest;
}

void des_force_portable(int portable)
{
    chosen = portable ? &PORTABLE : fastest;
}

const char *des_implementation(void)
{
    return chosen->name;
}

void tdes_schedule(tdes_key *key, const uint8_t *bytes, size_t length)
{
    key->core = chosen;
    chosen->schedule(key->round_keys[0], bytes);
    chosen->schedule(key->round_keys[1], bytes + 8);
    if (length == 24)
        chosen->schedule(key->round_keys[2], bytes + 16);
    else
        memcpy(key->round_keys[2], key->round_keys[0], sizeof key->round_keys[2]);
}

static des_state tdes_encrypt_state(const tdes_key *key, des_state state)
{
    state = key->core->rounds(state, key->round_keys[0], 0);
    state = key->core->rounds(state, key->round_keys[1], 1);
    return key->core->rounds(state, key->round_keys[2], 0);
}

static des_state tdes_decrypt_state(const tdes_key *key, des_state state)
{
    state = key->core->rounds(state, key->round_keys[2], 1);
    state = key->core->rounds(state, key->round_keys[1], 0);
    return key->core->rounds(state, key->round_keys[0], 1);
}

static des_state plus(des_state one, des_state other)
{
    des_state sum = {one.left ^ other.left, one.right ^ other.right};
    return sum;
}

void tdes_ecb(const tdes_key *key, int decrypt, const uint8_t *in, uint8_t *out, size_t blocks)
{
    for (size_t i = 0; i < blocks; i++) {
        des_state state = key->core->load(in + DES_BLOCK * i);
        state = decrypt ? tdes_decrypt_state(key, state) : tdes_encrypt_state(key, state);
        key->core->store(out + DES_BLOCK * i, state);
    }
}

void tdes_cbc(const tdes_key *key, int decrypt, const uint8_t chain[DES_BLOCK], const uint8_t *in,
              uint8_t *out, size_t blocks)
{
    des_state previous = key->core->load(chain);
    for (size_t i = 0; i < blocks; i++) {
        des_state block = key->core->load(in + DES_BLOCK * i);
        if (decrypt) {
            key->core->store(out + DES_BLOCK * i, plus(tdes_decrypt_state(key, block), previous));
            previous = block;
        } else {
            previous = tdes_encrypt_state(key, plus(block, previous));
            key->core->store(out + DES_BLOCK * i, previous);
        }
    }
}

void des_retail_mac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t mac[DES_BLOCK])
{
    const struct des_core *core = key->core;
    des_state state = {0, 0};
    size_t whole = size / DES_BLOCK, rest = size % DES_BLOCK;
    state = core->absorb(state, key->round_keys[0], data, whole);
    if (rest || !whole) {
        uint8_t last[DES_BLOCK] = {0};
        if (rest)
            memcpy(last, data + DES_BLOCK * whole, rest);
        state = core->absorb(state, key->round_keys[0], last, 1);
    }
    state = core->rounds(state, key->round_keys[1], 1);
    state = core->rounds(state, key->round_keys[0], 0);
    core->store(mac, state);
}

void tdes_cmac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t mac[DES_BLOCK])
{
    const struct des_core *core = key->core;
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
