"""vLLM for a GPU machine without a network: `python3 -m benchmarks.peers.pack_vllm FOLDER [MIB]`.

Writes the wheel and what its offline `LLM` imports as one tree, packed with xz, in parts of at most
MIB (default 60). For Python 3.12 and Hopper (sm_90) beside torch 2.11.0 for CUDA 13, transformers,
Triton, NumPy and the usual packages of a PyTorch image, which are not packed. There:
`cat FOLDER/vllm.tar.xz.* | tar xJ -C /tmp/vllm`, and PYTHONPATH=/tmp/vllm for vLLM alone.

Most of the wheel's 290 MiB is machine code for other devices. Its libraries keep their size, but
such code is overwritten with zeros, which xz packs into nothing.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

PACKAGES = (
    "vllm==0.26.0",
    "annotated-types==0.8.0",
    "apache-tvm-ffi==0.1.15.post2",
    "blake3==1.0.11",
    "cachetools==8.0.2",
    "cbor2==6.3.0",
    "compressed-tensors==0.17.0",
    "depyf==0.20.0",
    "distro==1.9.0",
    "fastapi==0.136.3",
    "fastsafetensors==0.5.0",
    "humming-kernels",
    "ijson==3.6.0",
    "jiter==0.19.0",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "llguidance==1.7.6",
    "mistral-common==1.13.1",
    "msgspec==0.22.0",
    "openai==2.54.0",
    "openai-harmony==0.0.8",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-semantic-conventions",
    "partial-json-parser==0.2.1.1.post7",
    "pybase64==1.5.1",
    "pycountry==26.2.16",
    "pydantic==2.14.4",
    "pydantic-core==2.50.5",
    "pydantic-extra-types==2.11.1",
    "python-multipart==0.0.34",
    "pyzmq==27.3.0",
    "referencing==0.37.0",
    "rpds-py",
    "setproctitle==1.3.8",
    "sniffio==1.3.1",
    "starlette==1.0.1",
    "typing-extensions",
    "typing-inspection",
    "xgrammar==0.2.8",
)
"""Found by importing `vllm.entrypoints.llm` and the GPU's model runner until none was missing."""
LEFT_OUT = (
    "vllm/vllm_flash_attn/_vllm_fa2_C*",  # for older devices; its import is guarded
    "vllm/_moe_C*",
    "vllm/vllm-rs*",
    "*/tekken_*.json",
    "*/3rdparty/*",
    "*/locales/*",
    "*/swagger-ui-bundle.js",
)
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]
ARCHITECTURE = 90
_FATBIN = struct.pack("<I", 0xBA55ED50)
_PTX, _ELF = 1, 2


def main() -> None:
    """Download, leave out, overwrite, pack, divide."""
    folder = Path(sys.argv[1])
    most = int(sys.argv[2] if len(sys.argv) > 2 else 60) << 20
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheels, tree = Path(scratch) / "wheels", Path(scratch) / "tree"
        _download(wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            _unpack(wheel, tree)
        for library in tree.glob("vllm/**/*.so"):
            library.write_bytes(keep_architecture(library.read_bytes(), ARCHITECTURE))
        packed = Path(scratch) / "vllm.tar.xz"
        with tarfile.open(packed, "w:xz", preset=9) as archive:
            archive.add(tree, arcname=".")
        data = packed.read_bytes()
    for number, start in enumerate(range(0, len(data), most)):
        (folder / f"vllm.tar.xz.{number}").write_bytes(data[start : start + most])
    print(f"{len(data) / 2**20:.1f} MiB in {-(-len(data) // most)} parts in {folder}")


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, "-d", str(folder), *PACKAGES], check=True)


def _unpack(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not any(fnmatch(name, pattern) for pattern in LEFT_OUT):
                archive.extract(name, tree)


def keep_architecture(library: bytes, architecture: int) -> bytes:
    """A library with the device code in its fat binaries overwritten, but for one architecture's.

    Where a fat binary has no code for it, the newest PTX that the driver can compile stays. What a
    fat binary looks like is not documented: a header (magic, version, its size, the size of what
    follows), then entries of a header (kind, size of itself, size of its code, architecture) and
    code.
    """
    data = bytearray(library)
    for entries in _fat_binaries(library):
        exact = [e for e in entries if e[0] == _ELF and e[1] == architecture]
        older = sorted(e for e in entries if e[0] == _PTX and e[1] <= architecture)
        kept = {entry[:2] for entry in exact or older[-1:]}
        for kind, arch, start, size in entries:
            if (kind, arch) not in kept:
                data[start : start + size] = bytes(size)
    return bytes(data)


def _fat_binaries(data: bytes) -> Iterator[list[tuple[int, int, int, int]]]:
    """Of each fat binary its entries: kind, architecture, where the code begins, its size."""
    place = data.find(_FATBIN)
    while place >= 0:
        _, version, header, size = struct.unpack_from("<IHHQ", data, place)
        if version != 1 or header != 16 or size > len(data) - place:
            place = data.find(_FATBIN, place + 4)
            continue
        at, end, entries = place + header, place + header + size, []
        while at < end:
            kind, _, length, code = struct.unpack_from("<HHIQ", data, at)
            (arch,) = struct.unpack_from("<I", data, at + 28)
            entries.append((kind, arch, at + length, code))
            at += length + code
        yield entries
        place = data.find(_FATBIN, end)


if __name__ == "__main__":
    main()
