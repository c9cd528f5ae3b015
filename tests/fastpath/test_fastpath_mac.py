"""MACs and the ciphers under them, against published samples, psec and OpenSSL.

Everything that depends on code chosen by the processor runs on every path that this machine has.
"""

import copy
import json
import pickle
import random
import threading
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given, settings
from hypothesis import strategies as st
from psec.mac import generate_retail_mac

from fastpath import mac
from fastpath.mac import MacAlgorithm, MacKey, MacPadding

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "crypto.json").read_text())
KEY16 = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")

keys16 = st.binary(min_size=16, max_size=16)
tdes_keys = st.one_of(keys16, st.binary(min_size=24, max_size=24))
aes_keys = st.one_of(*(st.binary(min_size=n, max_size=n) for n in (16, 24, 32)))
messages = st.binary(max_size=200)


@pytest.fixture(params=mac.paths()["des"], scope="module", autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every path of DES; the slowest of AES with the slowest of DES, else the fastest."""
    aes = "portable" if request.param == "portable" else None
    mac._use_paths(des=request.param, aes=aes)
    yield request.param
    mac._use_paths()


def vectors(group: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = VECTORS[group]["vectors"]
    assert found
    return found


class TestPaths:
    def test_names_what_runs(self, path: str) -> None:
        running = mac.implementation()
        assert set(running) == {"aes", "des"}
        assert running["des"] == path
        assert running["aes"] in {"aes-ni", "portable"}
        if path == "portable":
            assert running["aes"] == "portable"

    def test_every_path_that_the_processor_has_is_there(self) -> None:
        """By what Linux says of it; elsewhere at least the portable one."""
        here = mac.paths()
        assert here["aes"][-1] == here["des"][-1] == "portable"
        if not Path("/proc/cpuinfo").exists():
            return
        flags = set(Path("/proc/cpuinfo").read_text().split())
        needed = {
            "avx512-vbmi": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi"}
            | {"avx512_bitalg", "gfni"},
            "avx512": {"avx2", "avx512f", "avx512vl"},
            "avx2": {"avx2"},
            "portable": set(),
        }
        assert here["des"] == tuple(name for name, of in needed.items() if of <= flags)
        assert ("aes-ni" in here["aes"]) is ({"aes", "sse4_1"} <= flags)

    def test_a_path_that_is_not_here_is_refused(self) -> None:
        before = mac.implementation()
        for wrong in ({"des": "avx9"}, {"aes": "avx512-vbmi"}, {"des": "aes-ni"}):
            with pytest.raises(ValueError, match="not a path of this processor"):
                mac._use_paths(**wrong)
        assert mac.implementation() == before

    def test_keys_of_all_paths_in_one_batch(self, path: str) -> None:
        """A key stays with the path it was scheduled for; a batch may hold them all."""
        chance = random.Random(4)
        keys, data, right = [], [], []
        try:
            for n in range(400):
                des = chance.choice(mac.paths()["des"])
                mac._use_paths(des=des, aes=chance.choice(mac.paths()["aes"]))
                key, message = chance.randbytes(16), chance.randbytes(chance.randrange(90))
                algorithm = list(MacAlgorithm)[n % 3]
                keys.append(MacKey(algorithm, key))
                data.append(message)
                mac._use_paths(des="portable", aes="portable")
                right.append(MacKey(algorithm, key).sign(message))
            assert mac.sign_many(keys, data) == right
            assert [k.sign(m) for k, m in zip(keys, data, strict=True)] == right
        finally:
            mac._use_paths(des=path, aes="portable" if path == "portable" else None)


def check_verdicts(key: MacKey, data: bytes, right: bytes) -> None:
    """Right is right; each flipped bit, each other length and each other message is wrong."""
    wrong = [(int.from_bytes(right) ^ 1 << bit).to_bytes(8) for bit in range(64)]
    wrong += [b"", right[:7], right + b"\0", right * 2, bytes(8)]
    assert key.sign(data) == right
    assert key.verify(data, right) is True
    assert not any(key.verify(data, tried) for tried in wrong)
    assert not key.verify(data + b"\1", right)
    tried = [right, *wrong]
    verdicts = mac.verify_many([key] * len(tried), [data] * len(tried), tried)
    assert verdicts == [True] + [False] * len(wrong)


class TestPublishedSamples:
    @pytest.mark.parametrize("vector", vectors("des_blocks"), ids=lambda v: v["clear"])
    def test_single_des(self, vector: dict[str, str]) -> None:
        key, clear, cipher = (bytes.fromhex(vector[n]) for n in ("key", "clear", "cipher"))
        assert mac.tdes_encrypt_ecb(key * 2, clear) == cipher
        assert mac.tdes_encrypt_ecb(key * 3, clear) == cipher
        assert mac.tdes_decrypt_ecb(key * 2, cipher) == clear

    @pytest.mark.parametrize("vector", vectors("retail_macs"), ids=lambda v: v["mac"])
    def test_retail_mac(self, vector: dict[str, str]) -> None:
        key, data, right = (bytes.fromhex(vector[n]) for n in ("key", "data", "mac"))
        assert mac.retail_mac(key, data) == right
        check_verdicts(MacKey(MacAlgorithm.RETAIL, key), data, right)

    @pytest.mark.parametrize("vector", vectors("sealed_frames"))
    def test_sealed_frames(self, vector: dict[str, str]) -> None:
        text = "".join(vector["frame"])
        if vector["mac_form"] == "raw":
            frame = bytes.fromhex(text)
            data, right = frame[:-8], frame[-8:]
        else:
            data, right = text[:-16].encode(), bytes.fromhex(text[-16:])
        key = MacKey(MacAlgorithm(vector["algorithm"]), bytes.fromhex(vector["key"]))
        check_verdicts(key, data, right)

    @pytest.mark.parametrize("vector", vectors("key_check_values"), ids=lambda v: v["value"])
    def test_key_check_value(self, vector: dict[str, str]) -> None:
        key, right = bytes.fromhex(vector["key"]), bytes.fromhex(vector["value"])
        tdes = vector["algorithm"] == "tdes"
        algorithm = MacAlgorithm.RETAIL if tdes else MacAlgorithm.AES_CMAC
        assert mac.key_check_value("tdes" if tdes else "aes", key) == right
        assert mac.key_check_value(algorithm, key) == right


class TestAgainstOtherPrograms:
    @settings(deadline=None)
    @given(keys16, messages)
    def test_retail_mac_is_that_of_psec(self, key: bytes, data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # psec gives OpenSSL keys of 8 bytes
            right = generate_retail_mac(key[:8], key[8:], data, 1)
        assert mac.retail_mac(key, data) == right
        assert MacKey(MacAlgorithm.RETAIL, key).sign(data) == right

    @settings(deadline=None)
    @given(keys16, messages)
    def test_retail_mac_is_that_of_openssl(self, key: bytes, data: bytes) -> None:
        left, right = key[:8], key[8:]
        padded = data.ljust(-(-len(data) // 8) * 8 or 8, b"\0")
        chain = Cipher(TripleDES(left * 3), modes.CBC(bytes(8))).encryptor().update(padded)[-8:]
        inner = Cipher(TripleDES(right * 3), modes.ECB()).decryptor().update(chain)
        expected = Cipher(TripleDES(left * 3), modes.ECB()).encryptor().update(inner)
        assert mac.retail_mac(key, data) == expected

    @settings(deadline=None)
    @given(tdes_keys, st.binary(min_size=8, max_size=8), st.binary(max_size=20))
    def test_tdes_is_that_of_openssl(self, key: bytes, iv: bytes, seed: bytes) -> None:
        data = seed * 8
        algorithm = TripleDES(key if len(key) == 24 else key + key[:8])
        ecb = Cipher(algorithm, modes.ECB()).encryptor().update(data)
        cbc = Cipher(algorithm, modes.CBC(iv)).encryptor().update(data)
        assert mac.tdes_encrypt_ecb(key, data) == ecb
        assert mac.tdes_decrypt_ecb(key, ecb) == data
        assert mac.tdes_encrypt_cbc(key, iv, data) == cbc
        assert mac.tdes_decrypt_cbc(key, iv, cbc) == data

    @settings(deadline=None)
    @given(aes_keys, messages)
    def test_aes_cmac_is_that_of_openssl(self, key: bytes, data: bytes) -> None:
        other = CMAC(AES(key))
        other.update(data)
        right = other.finalize()
        assert mac.aes_cmac(key, data) == right
        assert MacKey(MacAlgorithm.AES_CMAC, key).sign(data) == right[:8]

    @settings(deadline=None)
    @given(tdes_keys, messages)
    def test_tdes_cmac_is_that_of_openssl(self, key: bytes, data: bytes) -> None:
        other = CMAC(TripleDES(key if len(key) == 24 else key + key[:8]))
        other.update(data)
        assert mac.tdes_cmac(key, data) == other.finalize()

    @settings(deadline=None)
    @given(aes_keys, st.binary(min_size=16, max_size=16))
    def test_aes_is_that_of_openssl(self, key: bytes, block: bytes) -> None:
        cipher = Cipher(AES(key), modes.ECB()).encryptor().update(block)
        assert mac.aes_encrypt_block(key, block) == cipher
        assert mac.aes_decrypt_block(key, cipher) == block


def random_batch(seed: int, count: int) -> tuple[list[MacKey], list[bytes]]:
    """All algorithms and paddings mixed, all key sizes, lengths around the block bounds."""
    chance = random.Random(seed)

    def key() -> MacKey:
        algorithm = chance.choice(list(MacAlgorithm))
        sizes = {MacAlgorithm.RETAIL: (16,), MacAlgorithm.TDES: (16, 24)}
        size = chance.choice(sizes.get(algorithm, (16, 24, 32)))
        if algorithm is MacAlgorithm.AES_CMAC:
            return MacKey(algorithm, chance.randbytes(size))
        return MacKey(algorithm, chance.randbytes(size), chance.choice(list(MacPadding)))

    return [key() for _ in range(count)], [
        chance.randbytes(chance.randrange(0, 70)) for _ in range(count)
    ]


def iso_9797_mac(key: bytes, data: bytes, *, retail: bool, padding: MacPadding) -> bytes:
    """MAC algorithm 1 or 3 by OpenSSL."""
    if padding is MacPadding.METHOD_2:
        data += b"\x80"
    padded = data.ljust(-(-len(data) // 8) * 8 or 8, b"\0")
    if not retail:
        algorithm = TripleDES(key if len(key) == 24 else key + key[:8])
        return Cipher(algorithm, modes.CBC(bytes(8))).encryptor().update(padded)[-8:]
    left, right = TripleDES(key[:8] * 3), TripleDES(key[8:] * 3)
    chain = Cipher(left, modes.CBC(bytes(8))).encryptor().update(padded)[-8:]
    inner = Cipher(right, modes.ECB()).decryptor().update(chain)
    return Cipher(left, modes.ECB()).encryptor().update(inner)


def right_macs(keys: list[bytes], data: list[bytes], retail: bool, padding: MacPadding) -> Any:
    return [
        iso_9797_mac(k, m, retail=retail, padding=padding) for k, m in zip(keys, data, strict=True)
    ]


class TestBatches:
    @pytest.mark.parametrize("padding", MacPadding)
    @pytest.mark.parametrize("retail", [True, False])
    @pytest.mark.parametrize(
        ("count", "longest"), [(3, 400), (7, 33), (64, 300), (65, 9), (257, 200), (600, 90)]
    )
    def test_messages_of_all_lengths_are_those_of_openssl(
        self, count: int, longest: int, retail: bool, padding: MacPadding
    ) -> None:
        chance = random.Random(count * longest)
        algorithm = MacAlgorithm.RETAIL if retail else MacAlgorithm.TDES
        sizes = (16,) if retail else (16, 24)
        keys = [chance.randbytes(chance.choice(sizes)) for _ in range(count)]
        data = [chance.randbytes(chance.randrange(longest + 1)) for _ in range(count)]
        right = right_macs(keys, data, retail, padding)
        assert mac.sign_many([MacKey(algorithm, key, padding) for key in keys], data) == right

    @pytest.mark.parametrize("lengths", [[9000, *[40] * 99], [600_000, 0, 8, 16, 5000] * 2])
    def test_one_long_message_among_short_ones(self, lengths: list[int]) -> None:
        chance = random.Random(2)
        keys = [chance.randbytes(16) for _ in lengths]
        data = [chance.randbytes(length) for length in lengths]
        right = right_macs(keys, data, True, MacPadding.METHOD_1)
        assert mac.sign_many([MacKey(MacAlgorithm.RETAIL, key) for key in keys], data) == right
        cmacs = [MacKey(MacAlgorithm.AES_CMAC, key) for key in keys]
        assert mac.sign_many(cmacs, data) == [
            mac.aes_cmac(key, message)[:8] for key, message in zip(keys, data, strict=True)
        ]

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 9, 100, 300])
    def test_aes_cmacs_of_all_lengths_are_those_of_openssl(self, count: int) -> None:
        chance = random.Random(count)
        keys = [chance.randbytes(chance.choice((16, 24, 32))) for _ in range(count)]
        data = [chance.randbytes(chance.randrange(200)) for _ in range(count)]
        right = []
        for key, message in zip(keys, data, strict=True):
            other = CMAC(AES(key))
            other.update(message)
            right.append(other.finalize()[:8])
        assert mac.sign_many([MacKey(MacAlgorithm.AES_CMAC, key) for key in keys], data) == right

    @pytest.mark.parametrize("blocks", [1, 2, 6, 7, 63, 64, 65, 255, 257, 700])
    def test_many_blocks_under_one_key_are_those_of_openssl(self, blocks: int) -> None:
        chance = random.Random(blocks)
        key, iv, data = chance.randbytes(24), chance.randbytes(8), chance.randbytes(8 * blocks)
        for mode, encrypt, decrypt in (
            (modes.ECB(), mac.tdes_encrypt_ecb, mac.tdes_decrypt_ecb),
            (
                modes.CBC(iv),
                lambda k, d: mac.tdes_encrypt_cbc(k, iv, d),
                lambda k, d: mac.tdes_decrypt_cbc(k, iv, d),
            ),
        ):
            cipher = Cipher(TripleDES(key), mode).encryptor().update(data)
            assert encrypt(key, data) == cipher
            assert decrypt(key, cipher) == data

    @pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 63, 64, 65, 256, 1000])
    def test_a_batch_is_its_messages_one_by_one(self, count: int) -> None:
        keys, data = random_batch(count, count)
        macs = mac.sign_many(keys, data)
        assert macs == [key.sign(message) for key, message in zip(keys, data, strict=True)]
        assert mac.verify_many(keys, data, macs) == [True] * count

    def test_only_the_wrong_ones_are_refused(self) -> None:
        keys, data = random_batch(5, 100)
        macs = mac.sign_many(keys, data)
        chance = random.Random(6)
        expected = [chance.random() < 0.5 for _ in macs]
        tried = [
            right if good else bytes([right[0] ^ 1 << chance.randrange(8)]) + right[1:]
            for right, good in zip(macs, expected, strict=True)
        ]
        assert True in expected
        assert False in expected
        assert mac.verify_many(keys, data, tried) == expected

    @pytest.mark.parametrize("length", [0, 1, 4, 7, 9, 16, 1000])
    def test_a_mac_of_another_length_is_wrong(self, length: int) -> None:
        key = MacKey(MacAlgorithm.RETAIL, KEY16)
        tried = (key.sign(b"x") * 200)[:length]
        assert mac.verify_many([key], [b"x"], [tried]) == [False]
        assert key.verify(b"x", tried) is False

    def test_lists_of_different_length_are_refused(self) -> None:
        key = MacKey(MacAlgorithm.RETAIL, KEY16)
        with pytest.raises(ValueError, match="differ in number"):
            mac.sign_many([key], [b"a", b"b"])
        with pytest.raises(ValueError, match="differ in number"):
            mac.sign_many([key, key], [b"a"])
        with pytest.raises(ValueError, match="differ in number"):
            mac.verify_many([key], [b"a"], [])
        with pytest.raises(ValueError, match="differ in number"):
            mac.verify_many([key], [], [bytes(8)])

    @pytest.mark.parametrize("wrong", [None, "text", 5, bytearray(8), memoryview(b"8")])
    def test_elements_of_another_type_are_refused(self, wrong: object) -> None:
        key = MacKey(MacAlgorithm.RETAIL, KEY16)
        with pytest.raises(TypeError):
            mac.sign_many([wrong], [b"a"])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            mac.sign_many([key, key], [b"a", wrong])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            mac.verify_many([key], [b"a"], [wrong])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            key.sign(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            mac.sign_many((key,), [b"a"])  # type: ignore[arg-type]

    def test_many_threads_on_the_same_keys(self) -> None:
        keys, data = random_batch(9, 200)
        right = mac.sign_many(keys, data)
        rounds: list[bool] = []

        def work() -> None:
            rounds.append(all(mac.sign_many(keys, data) == right for _ in range(30)))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert rounds == [True] * 4

    def test_the_interpreter_runs_on_meanwhile(self) -> None:
        """Another thread empties the very lists of the batch while it is computed."""
        key = MacKey(MacAlgorithm.AES_CMAC, KEY16)
        big = bytes(4096)
        right = key.sign(big)
        for _ in range(20):
            keys, data = [key] * 300, [bytes(big) for _ in range(300)]
            thread = threading.Thread(target=lambda a=keys, b=data: (a.clear(), b.clear()))
            thread.start()
            try:
                macs = mac.sign_many(keys, data)
            except ValueError:  # the other thread was between its two lists
                macs = []
            thread.join()
            assert all(one == right for one in macs)


class TestKeys:
    @pytest.mark.parametrize("length", [0, 8, 15, 17, 24, 32])
    def test_retail_keys_have_16_bytes(self, length: int) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            MacKey(MacAlgorithm.RETAIL, bytes(length))
        with pytest.raises(ValueError, match="16 bytes"):
            mac.retail_mac(bytes(length), b"")
        with pytest.raises(ValueError, match="16 bytes"):
            mac.key_check_value(MacAlgorithm.RETAIL, bytes(length))

    @pytest.mark.parametrize("length", [0, 8, 15, 17, 31, 33, 64])
    def test_aes_keys_have_16_24_or_32_bytes(self, length: int) -> None:
        for use in (
            lambda key: MacKey(MacAlgorithm.AES_CMAC, key),
            lambda key: mac.aes_cmac(key, b""),
            lambda key: mac.aes_encrypt_block(key, bytes(16)),
            lambda key: mac.aes_decrypt_block(key, bytes(16)),
            lambda key: mac.key_check_value("aes", key),
        ):
            with pytest.raises(ValueError, match="16, 24 or 32"):
                use(bytes(length))

    @pytest.mark.parametrize("length", [0, 8, 15, 17, 23, 25, 32])
    def test_tdes_keys_have_16_or_24_bytes(self, length: int) -> None:
        for use in (
            lambda key: mac.tdes_encrypt_ecb(key, b""),
            lambda key: mac.tdes_decrypt_ecb(key, b""),
            lambda key: mac.tdes_encrypt_cbc(key, bytes(8), b""),
            lambda key: mac.tdes_decrypt_cbc(key, bytes(8), b""),
            lambda key: mac.tdes_cmac(key, b""),
            lambda key: mac.key_check_value("tdes", key),
        ):
            with pytest.raises(ValueError, match="16 or 24"):
                use(bytes(length))

    def test_data_must_be_whole_blocks(self) -> None:
        for size in (1, 7, 9):
            with pytest.raises(ValueError, match="whole blocks"):
                mac.tdes_encrypt_ecb(KEY16, bytes(size))
            with pytest.raises(ValueError, match="whole blocks"):
                mac.tdes_decrypt_cbc(KEY16, bytes(8), bytes(size))
        for size in (0, 7, 9, 16):
            with pytest.raises(ValueError, match="initial value"):
                mac.tdes_encrypt_cbc(KEY16, bytes(size), bytes(8))
        for size in (0, 15, 17, 32):
            with pytest.raises(ValueError, match="16 bytes"):
                mac.aes_encrypt_block(KEY16, bytes(size))
            with pytest.raises(ValueError, match="16 bytes"):
                mac.aes_decrypt_block(KEY16, bytes(size))
        assert mac.tdes_encrypt_ecb(KEY16, b"") == b""

    @pytest.mark.parametrize("length", [0, 8, 17, 32])
    def test_keys_of_algorithm_1_have_16_or_24_bytes(self, length: int) -> None:
        with pytest.raises(ValueError, match="16 or 24"):
            MacKey(MacAlgorithm.TDES, bytes(length))

    def test_padding_is_the_enum_and_not_for_cmac(self) -> None:
        with pytest.raises(ValueError, match="padding of its own"):
            MacKey(MacAlgorithm.AES_CMAC, KEY16, MacPadding.METHOD_2)
        with pytest.raises(TypeError):
            MacKey(MacAlgorithm.RETAIL, KEY16, 2)  # type: ignore[arg-type]

    def test_algorithms_are_the_enum(self) -> None:
        with pytest.raises(TypeError):
            MacKey("retail-mac", KEY16)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            mac.key_check_value("des", KEY16)  # type: ignore[arg-type]
        assert MacKey(MacAlgorithm.RETAIL, KEY16).algorithm is MacAlgorithm.RETAIL
        assert MacAlgorithm("aes-cmac") is MacAlgorithm.AES_CMAC

    @pytest.mark.parametrize("algorithm", MacAlgorithm)
    def test_a_key_gives_nothing_away(self, algorithm: MacAlgorithm) -> None:
        key = MacKey(algorithm, KEY16)
        assert repr(key) == f"MacKey({algorithm.value}, …)"
        assert str(key) == repr(key)
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                take(key)
        with pytest.raises(TypeError):
            memoryview(key)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            key.algorithm = algorithm  # type: ignore[misc]
        readable = {name for name in dir(key) if not name.startswith("_")}
        assert readable == {"algorithm", "sign", "verify"}

    def test_parity_bits_do_not_matter(self) -> None:
        assert mac.retail_mac(bytes(16), b"x") == mac.retail_mac(b"\1" * 16, b"x")
        assert mac.retail_mac(bytes(16), b"x") != mac.retail_mac(b"\2" * 16, b"x")

    def test_length_extension_by_zeros_is_the_known_limit_of_padding_method_1(self) -> None:
        key = MacKey(MacAlgorithm.RETAIL, KEY16)
        assert key.sign(b"1234567") == key.sign(b"1234567\0")
        assert key.sign(b"") == key.sign(bytes(8))
        assert key.sign(bytes(8)) != key.sign(bytes(9))
        cmac = MacKey(MacAlgorithm.AES_CMAC, KEY16)
        assert len({cmac.sign(bytes(size)) for size in range(70)}) == 70

    def test_every_byte_of_a_long_message_counts(self) -> None:
        data = bytes(range(256)) * 2
        for algorithm in MacAlgorithm:
            key = MacKey(algorithm, KEY16)
            changed = [data[:i] + bytes([data[i] ^ 0x80]) + data[i + 1 :] for i in range(len(data))]
            macs = mac.sign_many([key] * len(changed), changed)
            assert len({*macs, key.sign(data)}) == len(data) + 1
            assert all(one != other for one, other in pairwise(macs))
