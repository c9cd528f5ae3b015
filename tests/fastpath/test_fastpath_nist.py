"""DES, Triple DES, AES and CMAC against every case of NIST's files that comes with them.

The files are those of the package cryptography_vectors: the CAVP known-answer and multi-block tests
of TDES (all modes) and AES (ECB), and the examples of SP 800-38B. All run on every path that this
machine has.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cryptography_vectors
import pytest

from fastpath import mac
from fastpath.mac import MacAlgorithm, MacKey

NIST = Path(cryptography_vectors.__file__).parent


@pytest.fixture(params=mac.paths()["des"], scope="module", autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    mac._use_paths(des=request.param, aes="portable" if request.param == "portable" else None)
    yield request.param
    mac._use_paths()


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


class Step(NamedTuple):
    """One block that a case has enciphered, and the leading bits of the result that it tells."""

    key: bytes
    entered: bytes
    result: int
    bits: int


def segments_of(path: Path, case: dict[str, str], name: str) -> list[list[int]]:
    """The text of a case in segments of its mode, one list for each of its streams."""
    bits = segment_bits(path)
    streams = 3 if "IV1" in case else 1
    if f"{name}1" in case:
        texts = [case.get(f"{name}{stream}", case[f"{name}1"]) for stream in (1, 2, 3)]
    elif streams == 3 and is_known_answer(path):
        texts = [case[name]] * 3
    else:
        whole = split_text(case[name], bits)
        return [whole[stream::streams] for stream in range(streams)]
    return [split_text(text, bits) for text in texts]


def segment_bits(path: Path) -> int:
    found = re.match(r"TCFBP?(\d+?)(?:MMT|[a-z])", path.stem)
    return int(found[1]) if found else 64


def is_known_answer(path: Path) -> bool:
    return "MMT" not in path.stem


def split_text(text: str, bits: int) -> list[int]:
    if bits == 1:  # written as one digit a bit
        return [int(digit) for digit in text]
    return [int(text[at : at + bits // 4], 16) for at in range(0, len(text), bits // 4)]


def steps_of(path: Path, case: dict[str, str]) -> Iterator[Step]:
    """Every block that goes through TDES in a case, by the definition of its mode (SP 800-20)."""
    key, bits = tdes_key_of(case), segment_bits(path)
    clear, cipher = (segments_of(path, case, name) for name in ("PLAINTEXT", "CIPHERTEXT"))
    if path.stem.startswith("TCFBP") and not is_known_answer(path):
        yield from pipelined_steps(path, case)
        return
    if path.parent.name == "ECB":
        for one, other in zip(clear[0], cipher[0], strict=True):
            yield Step(key, one.to_bytes(8), other, 64)
        return
    for stream, (ones, others) in enumerate(zip(clear, cipher, strict=True), 1):
        register = int(case["IV" if "IV" in case else f"IV{stream}"], 16)
        for one, other in zip(ones, others, strict=True):
            if path.parent.name == "CBC":
                yield Step(key, (register ^ one).to_bytes(8), other, 64)
                register = other
                continue
            yield Step(key, register.to_bytes(8), one ^ other, bits)
            if path.parent.name == "OFB":
                register = one ^ other
            else:
                register = (register << bits | other) & 2**64 - 1


def pipelined_steps(path: Path, case: dict[str, str]) -> Iterator[Step]:
    """CFB-P: one register, into which the cipher text of three segments ago is shifted."""
    bits = segment_bits(path)
    clear, cipher = (split_text(case[name], bits) for name in ("PLAINTEXT", "CIPHERTEXT"))
    register = 0
    for n, (one, other) in enumerate(zip(clear, cipher, strict=True)):
        if n < 3:
            register = int(case[f"IV{n + 1}"], 16)
        else:
            register = (register << bits | cipher[n - 3]) & 2**64 - 1
        yield Step(tdes_key_of(case), register.to_bytes(8), one ^ other, bits)


class TestAllOfTdes:
    FILES = sorted((NIST / "ciphers/3DES").glob("*/*.rsp"))

    def test_every_case_in_batches(self) -> None:
        """5,830 cases: each of their blocks is a MAC (algorithm 1) of one block under its key."""
        cases = [(path, case) for path in self.FILES for case in read_cases(path)]
        assert len(cases) == 5830
        per_case = [list(steps_of(path, case)) for path, case in cases]
        assert all(per_case)
        steps = [step for found in per_case for step in found]
        assert len(steps) == 14_820
        keys = [MacKey(MacAlgorithm.TDES, step.key) for step in steps]
        macs = mac.sign_many(keys, [step.entered for step in steps])
        wrong = [
            step
            for step, found in zip(steps, macs, strict=True)
            if int.from_bytes(found) >> (64 - step.bits) != step.result
        ]
        assert wrong == []

    def test_every_whole_block_backwards(self) -> None:
        """All blocks of a key at once, through the inverse."""
        blocks: dict[bytes, list[Step]] = {}
        for path in self.FILES:
            for case in read_cases(path):
                for step in steps_of(path, case):
                    if step.bits == 64:
                        blocks.setdefault(step.key, []).append(step)
        assert len(blocks) > 200
        for key, steps in blocks.items():
            results = b"".join(step.result.to_bytes(8) for step in steps)
            entered = b"".join(step.entered for step in steps)
            assert mac.tdes_decrypt_ecb(key, results) == entered
            assert mac.tdes_encrypt_ecb(key, entered) == results


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
