"""Reads what scripts/wheel and scripts/npm pack: the project's metadata, and the clients of the release's archives.

Standard library only. The versions, names and addresses are those of Cargo.toml, and nowhere else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NoReturn

TOP = Path(__file__).resolve().parent.parent
README = TOP / "packaging/client/README.md"
LICENSES = ("LICENSE-APACHE", "LICENSE-MIT")
SUMS = "SHA256SUMS"
HINT = "hint: run scripts/release first"


def fail(message: str, code: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


@dataclass(frozen=True)
class Platform:
    """A target of the release, and what the package managers call it."""

    target: str
    machine: str
    """What `machine` finds in the program."""
    wheel: str
    """Platform tags, as in the name of a wheel."""
    npm: str
    """os-cpu."""

    @property
    def program(self) -> str:
        return "spa-knock.exe" if "windows" in self.target else "spa-knock"

    @property
    def archive(self) -> str:
        return f"{self.target}.zip" if "windows" in self.target else f"{self.target}.tar.gz"


def linux(cpu: str, npm: str) -> Platform:
    """The programs are static: one package is for glibc and musl. manylinux2014 is for pip before version 20.3."""
    tags = f"manylinux_2_17_{cpu}.manylinux2014_{cpu}.musllinux_1_1_{cpu}"
    return Platform(f"{cpu}-unknown-linux-musl", f"ELF {cpu}", tags, npm)


# The versions of macOS are the oldest that Rust's standard library supports.
PLATFORMS = (
    linux("x86_64", "linux-x64"),
    linux("aarch64", "linux-arm64"),
    Platform("x86_64-apple-darwin", "Mach-O x86_64", "macosx_10_12_x86_64", "darwin-x64"),
    Platform("aarch64-apple-darwin", "Mach-O aarch64", "macosx_11_0_arm64", "darwin-arm64"),
    Platform("x86_64-pc-windows-gnu", "PE x86_64", "win_amd64", "win32-x64"),
)


@dataclass(frozen=True)
class Client:
    """What an archive of the release contributes to a package."""

    platform: Platform
    program: bytes
    third_party: bytes
    """The licenses of the libraries in the program, which every copy must contain."""


@dataclass(frozen=True)
class Project:
    """The package in Cargo.toml."""

    version: str
    description: str
    license: str
    authors: list[str]
    keywords: list[str]
    homepage: str
    repository: str

    @classmethod
    def read(cls) -> Project:
        command = ["cargo", "metadata", "--no-deps", "--format-version=1", f"--manifest-path={TOP / 'Cargo.toml'}"]
        packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
        package = next(package for package in packages if package["name"] == "spa-knock")
        return cls(**{key: package[key] for key in cls.__dataclass_fields__})

    def has_placeholders(self) -> bool:
        return ".invalid" in " ".join([*self.authors, self.homepage, self.repository])


def source_date_epoch() -> int:
    """The time stamp of packed files: SOURCE_DATE_EPOCH, or the time of the last commit."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    command = ["git", "-C", str(TOP), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def machine(program: bytes) -> str:
    """The format and processor that the program's header states; a Linux program must be static."""

    def number(at: int, length: int) -> int:
        return int.from_bytes(program[at : at + length], "little")

    if program[:4] == b"\x7fELF":
        headers, size, count = number(32, 8), number(54, 2), number(56, 2)
        if any(number(headers + size * index, 4) == 3 for index in range(count)):  # PT_INTERP
            return "a program that needs a C library"
        return {62: "ELF x86_64", 183: "ELF aarch64"}.get(number(18, 2), "another ELF")
    if program[:4] == b"\xcf\xfa\xed\xfe":
        return {0x0100_0007: "Mach-O x86_64", 0x0100_000C: "Mach-O aarch64"}.get(number(4, 4), "another Mach-O")
    if program[:2] == b"MZ" and program[number(0x3C, 4) :][:4] == b"PE\0\0":
        return {0x8664: "PE x86_64"}.get(number(number(0x3C, 4) + 4, 2), "another PE")
    return "not a program"


def sums(directory: Path) -> dict[str, str] | None:
    """The checksums beside the archives, by file name."""
    try:
        lines = (directory / SUMS).read_text().splitlines()
    except FileNotFoundError:
        return None
    return {name.lstrip("*"): digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def read(archive: Path, names: list[str]) -> list[bytes]:
    """Files of an archive, which has one directory with the archive's name."""
    directory = archive.name.replace(".zip", "").replace(".tar.gz", "")
    contents = []
    for name in names:
        try:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as opened_zip:
                    contents.append(opened_zip.read(f"{directory}/{name}"))
            else:
                with tarfile.open(archive, "r:gz") as opened_tar:
                    file = opened_tar.extractfile(f"{directory}/{name}")
                    contents.append(file.read() if file else fail(f"{archive}: {directory}/{name} is not a file"))
        except KeyError:
            fail(f"{archive}: does not contain {directory}/{name}")
    return contents


def clients(directory: Path, version: str, release: bool) -> list[Client]:
    """The client of each archive in the directory, after all checks."""
    known = sums(directory)
    if release and known is None:
        fail(f"{directory / SUMS}: does not exist\n{HINT}")
    found = []
    for platform in PLATFORMS:
        archive = directory / f"spa-knock-{version}-{platform.archive}"
        if not archive.exists():
            if release:
                fail(f"{archive}: does not exist, but a release is for every platform\n{HINT}")
            continue
        if known is not None and known.get(archive.name) != hashlib.sha256(archive.read_bytes()).hexdigest():
            fail(f"{archive}: differs from its line in {SUMS}\n{HINT}")
        program, third_party = read(archive, [platform.program, "THIRD-PARTY-LICENSES.txt"])
        if machine(program) != platform.machine:
            fail(f"{archive}: {platform.program}: expected a static {platform.machine}, found: {machine(program)}")
        found.append(Client(platform, program, third_party))
    return found or fail(f"{directory}: no archive of spa-knock {version}\n{HINT}")


def run(description: str, write: Callable[[Project, list[Client], Path], list[Path]]) -> None:
    """The command line of both scripts. Prints the path of each file that `write` has written."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="DIRECTORY", help="archives of scripts/release"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY", help="where to write the packages")
    parser.add_argument(
        "--release", action="store_true", help=f"require each platform, {SUMS}, and no placeholder in Cargo.toml"
    )
    args = parser.parse_args()
    project = Project.read()
    if args.release and project.has_placeholders():
        fail("Cargo.toml: authors, repository and homepage are placeholders: fill them in before a release")
    found = clients(args.source, project.version, args.release)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in write(project, found, args.output):
        print(path)
