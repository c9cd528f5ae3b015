"""DES, Triple DES, AES and CMAC against every case of NIST's files that comes with them.

The files are those of the package cryptography_vectors: the CAVP known-answer and multi-block tests
of TDES (ECB, CBC, interleaved CBC) and AES (ECB), and the examples of SP 800-38B. All run on the
fastest code this machine has, and on the portable code.
"""

from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pytest

from fastpath import mac
from fastpath.mac import MacAlgorithm, MacKey

NIST = Path(cryptography_vectors.__file__).parent


@pytest.fixture(params=["fastest", "portable"], scope="module", autouse=True)
def core(request: pytest.FixtureRequest) -> Iterator[str]:
    mac._force_portable(request.param == "portable")
    yield request.param
    mac._force_portable(False)


def read_cases(path: Path) -> list[dict[str, str]]:
    """The cases of a NIST response file: "NAME = value" lines, a new case at every COUNT."""
    cases: list[dict[str, str]] = []
    section = "ENCRYPT"
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text.strip("[]")
        elif "=" in text and not text.startswith("#"):
            name, _, value = (part.strip() for part in text.partition("="))
            if name == "COUNT":
                cases.append({"SECTION": section})
            cases[-1][name] = value
    return cases


def tdes_key_of(case: dict[str, str]) -> bytes:
    if "KEYs" in case:
        return bytes.fromhex(case["KEYs"] * 3)
    key = bytes.fromhex(case["KEY1"] + case["KEY2"] + case["KEY3"])
    return key[:16] if key[:8] == key[16:] else key


def stream_of(case: dict[str, str], name: str, stream: int) -> bytes:
    """Known-answer files give a text per stream, or one that all share; the others interleave."""
    for alone in (f"{name}{stream}", f"{name}1"):
        if alone in case:
            return bytes.fromhex(case[alone])
    whole = bytes.fromhex(case[name])
    if len(whole) == 8:
        return whole
    return b"".join(whole[at : at + 8] for at in range(8 * (stream - 1), len(whole), 24))


class TestNistFiles:
    @pytest.mark.parametrize(
        "path", sorted((NIST / "ciphers/3DES/ECB").glob("*.rsp")), ids=lambda p: p.stem
    )
    def test_tdes_ecb(self, path: Path) -> None:
        cases = read_cases(path)
        assert len(cases) >= 20
        for case in cases:
            key = tdes_key_of(case)
            clear, cipher = bytes.fromhex(case["PLAINTEXT"]), bytes.fromhex(case["CIPHERTEXT"])
            assert mac.tdes_encrypt_ecb(key, clear) == cipher
            assert mac.tdes_decrypt_ecb(key, cipher) == clear

    @pytest.mark.parametrize(
        "path", sorted((NIST / "ciphers/3DES/CBC").glob("TCBC[!I]*.rsp")), ids=lambda p: p.stem
    )
    def test_tdes_cbc(self, path: Path) -> None:
        cases = read_cases(path)
        assert len(cases) >= 20
        for case in cases:
            key, iv = tdes_key_of(case), bytes.fromhex(case["IV"])
            clear, cipher = bytes.fromhex(case["PLAINTEXT"]), bytes.fromhex(case["CIPHERTEXT"])
            assert mac.tdes_encrypt_cbc(key, iv, clear) == cipher
            assert mac.tdes_decrypt_cbc(key, iv, cipher) == clear

    @pytest.mark.parametrize(
        "path", sorted((NIST / "ciphers/3DES/CBC").glob("TCBCI*.rsp")), ids=lambda p: p.stem
    )
    def test_tdes_cbc_interleaved(self, path: Path) -> None:
        """Three interleaved CBC streams: each is CBC of every third block from its own IV."""
        cases = read_cases(path)
        assert len(cases) >= 20
        for case in cases:
            for stream in (1, 2, 3):
                key, iv = tdes_key_of(case), bytes.fromhex(case[f"IV{stream}"])
                clear, cipher = (
                    stream_of(case, name, stream) for name in ("PLAINTEXT", "CIPHERTEXT")
                )
                assert len(clear) == len(cipher) > 0
                assert mac.tdes_encrypt_cbc(key, iv, clear) == cipher
                assert mac.tdes_decrypt_cbc(key, iv, cipher) == clear

    def test_no_file_is_left_out(self) -> None:
        """530 cases in each of three modes, the interleaved ones with three streams each."""
        files = [*(NIST / "ciphers/3DES/ECB").glob("*"), *(NIST / "ciphers/3DES/CBC").glob("*")]
        assert len(files) == 24
        assert sum(len(read_cases(path)) for path in files) == 1590

    @pytest.mark.parametrize(
        "path", sorted((NIST / "ciphers/AES/ECB").glob("*.rsp")), ids=lambda p: p.stem
    )
    def test_aes(self, path: Path) -> None:
        cases = read_cases(path)
        assert len(cases) >= 8
        for case in cases:
            key = bytes.fromhex(case["KEY"])
            clear, cipher = bytes.fromhex(case["PLAINTEXT"]), bytes.fromhex(case["CIPHERTEXT"])
            for at in range(0, len(clear), 16):
                assert mac.aes_encrypt_block(key, clear[at : at + 16]) == cipher[at : at + 16]
                assert mac.aes_decrypt_block(key, cipher[at : at + 16]) == clear[at : at + 16]

    @pytest.mark.parametrize("bits", [128, 192, 256])
    def test_aes_cmac(self, bits: int) -> None:
        cases = read_cases(NIST / f"CMAC/nist-800-38b-aes{bits}.txt")
        assert len(cases) == 4
        for case in cases:
            key, data, right = (bytes.fromhex(case[n]) for n in ("KEY", "MESSAGE", "OUTPUT"))
            assert mac.aes_cmac(key, data) == right
            mac_key = MacKey(MacAlgorithm.AES_CMAC, key)
            assert mac_key.verify(data, right[:8])
            for bit in range(64):
                wrong = (int.from_bytes(right[:8]) ^ 1 << bit).to_bytes(8)
                assert not mac_key.verify(data, wrong)

    def test_tdes_cmac(self) -> None:
        cases = read_cases(NIST / "CMAC/nist-800-38b-3des.txt")
        assert len(cases) == 8
        for case in cases:
            data, right = bytes.fromhex(case["MESSAGE"]), bytes.fromhex(case["OUTPUT"])
            assert mac.tdes_cmac(tdes_key_of(case), data) == right
