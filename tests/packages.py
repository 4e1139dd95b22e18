#!/usr/bin/env -S python3 -B
"""scripts/wheel, scripts/npm and the launcher, with small files in place of the clients.

Needs Python alone; the tests of the launcher are skipped if there is no node.
"""

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import unittest
import unittest.mock
import zipfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "scripts"))
import client_archives

VERSION = client_archives.Project.read().version
LICENSES = ["LICENSE-APACHE", "LICENSE-MIT"]
THIRD_PARTY = "THIRD-PARTY-LICENSES.txt"


def elf(processor: int, interpreter: bool = False) -> bytes:
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, processor, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<I", 3 if interpreter else 1).ljust(56, b"\0") + b"static program"


PROGRAMS = {
    "x86_64-unknown-linux-musl": elf(62),
    "aarch64-unknown-linux-musl": elf(183),
    "x86_64-apple-darwin": b"\xcf\xfa\xed\xfe\x07\x00\x00\x01" + b"mac",
    "aarch64-apple-darwin": b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01" + b"mac",
    "x86_64-pc-windows-gnu": b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0\x64\x86" + b"windows",
}


def add_archive(directory: Path, target: str, program: bytes) -> Path:
    """An archive as scripts/release writes it."""
    name = f"spa-knock-{VERSION}-{target}"
    files = {"README.md": b"", "man/spa-knock.1": b"", THIRD_PARTY: f"licenses of {target}".encode()}
    if "windows" in target:
        path = directory / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in {**files, "spa-knock.exe": program}.items():
                archive.writestr(f"{name}/{file}", content)
        return path
    path = directory / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for file, content in {**files, "spa-knock": program}.items():
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


def add_sums(directory: Path) -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(directory.iterdir())]
    (directory / "SHA256SUMS").write_text("".join(lines))


def script(name: str, *args: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [str(TOP / "scripts" / name), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def unpacked_npm(path: Path) -> dict[str, tuple[bytes, int]]:
    with tarfile.open(path) as archive:
        return {entry.name: (archive.extractfile(entry).read(), entry.mode) for entry in archive}  # type: ignore[union-attr]


def differences_from_record(path: Path) -> list[str]:
    """The files of a wheel that RECORD does not describe, and those that it describes otherwise."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    record = next(name for name in contents if name.endswith(".dist-info/RECORD"))
    expected = {name: (digest, size) for name, digest, size in csv.reader(contents[record].decode().splitlines())}
    found = {}
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        found[name] = ("", "") if name == record else (f"sha256={digest}", str(len(content)))
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


class Scratch(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.dist = self.scratch / "dist"
        self.dist.mkdir()
        for target, program in PROGRAMS.items():
            add_archive(self.dist, target, program)
        add_sums(self.dist)

    def packages(self, name: str, output: str = "packages", **environment: str) -> dict[str, Path]:
        """Runs a script, which must succeed, and returns its packages by name."""
        ran = script(name, "--from", self.dist, "--output", self.scratch / output, **environment)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        paths = [Path(line) for line in ran.stdout.splitlines()]
        self.assertEqual(sorted(paths), sorted((self.scratch / output).glob("*.whl" if name == "wheel" else "*.tgz")))
        return {path.name: path for path in paths}


class Wheels(Scratch):
    def test_each_wheel_contains_its_program_and_nothing_that_is_not_listed_here(self) -> None:
        tags = {
            "x86_64-unknown-linux-musl": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
            "aarch64-unknown-linux-musl": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
            "x86_64-apple-darwin": "macosx_10_12_x86_64",
            "aarch64-apple-darwin": "macosx_11_0_arm64",
            "x86_64-pc-windows-gnu": "win_amd64",
        }
        wheels = self.packages("wheel")
        self.assertEqual(len(wheels), len(PROGRAMS))
        for target, tag in tags.items():
            path = wheels[f"spa_knock-{VERSION}-py3-none-{tag}.whl"]
            program = f"spa_knock-{VERSION}.data/scripts/spa-knock{'.exe' if 'windows' in target else ''}"
            info = f"spa_knock-{VERSION}.dist-info"
            with zipfile.ZipFile(path) as archive:
                modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
                expected = {f"{info}/{name}": 0o100644 for name in ("METADATA", "WHEEL", "RECORD")}
                expected.update({f"{info}/licenses/{name}": 0o100644 for name in [*LICENSES, THIRD_PARTY]})
                self.assertEqual(modes, {program: 0o100755, **expected})
                self.assertEqual(archive.read(program), PROGRAMS[target])
                self.assertEqual(archive.read(f"{info}/licenses/{THIRD_PARTY}"), f"licenses of {target}".encode())
                text = archive.read(f"{info}/WHEEL").decode()
                self.assertEqual(
                    [line[5:] for line in text.splitlines() if line.startswith("Tag: ")],
                    [f"py3-none-{one}" for one in tag.split(".")],
                )
                metadata = archive.read(f"{info}/METADATA").decode()
            self.assertIn(f"\nVersion: {VERSION}\n", metadata)
            self.assertIn("\nLicense-Expression: MIT OR Apache-2.0\n", metadata)
            self.assertNotIn("](", metadata, "a relative link would lead nowhere")
            self.assertEqual(differences_from_record(path), [])

    def test_a_change_of_any_file_in_a_wheel_differs_from_its_record(self) -> None:
        path = next(iter(self.packages("wheel").values()))
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        for changed in contents:
            if changed.endswith("/RECORD"):
                continue
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in contents.items():
                    archive.writestr(name, content[:-1] + b"~" if name == changed else content)
            self.assertEqual(differences_from_record(path), [changed])


class Npm(Scratch):
    def test_each_package_contains_its_files_and_nothing_that_is_not_listed_here(self) -> None:
        platforms = {
            "linux-x64": "x86_64-unknown-linux-musl",
            "linux-arm64": "aarch64-unknown-linux-musl",
            "darwin-x64": "x86_64-apple-darwin",
            "darwin-arm64": "aarch64-apple-darwin",
            "win32-x64": "x86_64-pc-windows-gnu",
        }
        packages = self.packages("npm")
        self.assertEqual(len(packages), len(PROGRAMS) + 1)
        files = unpacked_npm(packages[f"spa-knock-{VERSION}.tgz"])
        names = ["package.json", *LICENSES, "README.md"]
        modes = {f"package/{name}": 0o644 for name in names}
        self.assertEqual(
            {name: mode for name, (_, mode) in files.items()}, {**modes, "package/bin/spa-knock.js": 0o755}
        )
        manifest = json.loads(files["package/package.json"][0])
        self.assertEqual(manifest["optionalDependencies"], {f"@spa-knock/{name}": VERSION for name in platforms})
        self.assertNotIn("scripts", manifest)
        self.assertNotIn("dependencies", manifest)
        for platform, target in platforms.items():
            files = unpacked_npm(packages[f"spa-knock-{platform}-{VERSION}.tgz"])
            program = f"package/bin/spa-knock{'.exe' if platform == 'win32-x64' else ''}"
            modes = {f"package/{name}": 0o644 for name in ["package.json", *LICENSES, THIRD_PARTY]}
            self.assertEqual({name: mode for name, (_, mode) in files.items()}, {**modes, program: 0o755})
            self.assertEqual(files[program][0], PROGRAMS[target])
            manifest = json.loads(files["package/package.json"][0])
            self.assertEqual((manifest["name"], manifest["version"]), (f"@spa-knock/{platform}", VERSION))
            self.assertEqual((manifest["os"], manifest["cpu"]), ([platform.split("-")[0]], [platform.split("-")[1]]))
            self.assertNotIn("scripts", manifest)


class Both(Scratch):
    def test_two_runs_write_equal_packages(self) -> None:
        for name in ("wheel", "npm"):
            first = self.packages(name, f"{name}-1", SOURCE_DATE_EPOCH="1700000000", TZ="Asia/Tokyo")
            second = self.packages(name, f"{name}-2", SOURCE_DATE_EPOCH="1700000000", TZ="America/Lima")
            self.assertEqual(first.keys(), second.keys())
            for package, path in first.items():
                self.assertEqual(path.read_bytes(), second[package].read_bytes(), package)

    def refused(self, message: str, *args: str) -> None:
        for name in ("wheel", "npm"):
            ran = script(name, "--from", self.dist, "--output", self.scratch / "refused", *args)
            self.assertEqual((ran.returncode, ran.stdout), (1, ""))
            self.assertIn(message, ran.stderr)
        self.assertFalse((self.scratch / "refused").exists())

    def test_an_archive_that_differs_from_its_checksum_is_refused(self) -> None:
        add_archive(self.dist, "x86_64-apple-darwin", PROGRAMS["x86_64-apple-darwin"] + b"more")
        self.refused("x86_64-apple-darwin.tar.gz: differs from its line in SHA256SUMS")

    def test_a_program_for_another_platform_and_one_that_is_not_static_are_refused(self) -> None:
        for target, program, found in [
            ("x86_64-unknown-linux-musl", elf(183), "expected a static ELF x86_64, found: ELF aarch64"),
            ("x86_64-unknown-linux-musl", elf(62, interpreter=True), "found: a program that needs a C library"),
            ("aarch64-apple-darwin", PROGRAMS["x86_64-apple-darwin"], "found: Mach-O x86_64"),
            ("x86_64-pc-windows-gnu", b"#!/bin/sh", "expected a static PE x86_64, found: not a program"),
        ]:
            add_archive(self.dist, target, program)
            add_sums(self.dist)
            self.refused(found)
            add_archive(self.dist, target, PROGRAMS[target])

    def test_a_directory_without_archives_is_refused_with_a_hint(self) -> None:
        shutil.rmtree(self.dist)
        self.refused(f"no archive of spa-knock {VERSION}\nhint: run scripts/release first")

    def test_a_release_needs_every_platform_and_checksums(self) -> None:
        def refused() -> str:
            with self.assertRaises(SystemExit), unittest.mock.patch("sys.stderr", io.StringIO()) as stderr:
                client_archives.clients(self.dist, VERSION, release=True)
            return stderr.getvalue()

        self.assertEqual(len(client_archives.clients(self.dist, VERSION, release=True)), len(PROGRAMS))
        next(self.dist.glob("*windows*")).unlink()
        self.assertIn("windows-gnu.zip: does not exist, but a release is for every platform", refused())
        self.assertEqual(len(client_archives.clients(self.dist, VERSION, release=False)), len(PROGRAMS) - 1)
        (self.dist / "SHA256SUMS").unlink()
        self.assertIn("SHA256SUMS: does not exist", refused())

    def test_a_release_with_placeholders_is_refused(self) -> None:
        if client_archives.Project.read().has_placeholders():
            self.refused("Cargo.toml: authors, repository and homepage are placeholders", "--release")


@unittest.skipUnless(shutil.which("node"), "there is no node")
class Launcher(Scratch):
    """The launcher, with a script in place of the program."""

    def setUp(self) -> None:
        super().setUp()
        package = self.packages("npm")[f"spa-knock-{VERSION}.tgz"]
        modules = self.scratch / "node_modules"
        for name, (content, mode) in unpacked_npm(package).items():
            path = modules / "spa-knock" / Path(name).relative_to("package")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
        self.launcher = modules / "spa-knock/bin/spa-knock.js"
        ask = ["node", "-p", "process.platform + '-' + process.arch"]
        self.platform = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        self.program = modules / "@spa-knock" / self.platform / "bin/spa-knock"

    def install(self, text: str) -> None:
        self.program.parent.mkdir(parents=True, exist_ok=True)
        self.program.write_text(text)
        self.program.chmod(0o755)

    def run_launcher(self, *args: str, node: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["node", *node, self.launcher, *args], capture_output=True, text=True, input="from stdin")

    def test_arguments_input_output_and_exit_code_are_passed_on(self) -> None:
        self.install('#!/bin/sh\nprintf "<%s>" "$@"\ncat\necho problem >&2\nexit 5\n')
        ran = self.run_launcher("a b", "", "schlüssel 🔑", "--", "-x", "$HOME")
        self.assertEqual(ran.stdout, "<a b><><schlüssel 🔑><--><-x><$HOME>from stdin")
        self.assertEqual((ran.stderr, ran.returncode), ("problem\n", 5))

    def test_a_signal_reaches_the_program_and_the_launcher_ends_as_the_program_does(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for text, code in [
                ("#!/bin/sh\necho $$\nexec sleep 30\n", -number),
                (f"#!/bin/sh\ntrap 'exit 9' {int(number)}\necho $$\nsleep 5 >/dev/null & wait\n", 9),
            ]:
                self.install(text)
                process = subprocess.Popen(["node", self.launcher], stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                program = int(process.stdout.readline())
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=20), code)
                self.assertFalse(Path(f"/proc/{program}/stat").exists(), "the program has exited")
                process.stdout.close()

    def test_a_missing_program_is_an_error_with_the_fix(self) -> None:
        ran = self.run_launcher("--version")
        self.assertIn(f"spa-knock: @spa-knock/{self.platform}: not installed", ran.stderr)
        self.assertIn("hint: npm install --include=optional spa-knock", ran.stderr)
        self.assertEqual((ran.stdout, ran.returncode), ("", 127))

    def test_a_program_that_cannot_be_started_is_an_error(self) -> None:
        self.install("#!/bin/sh\n")
        self.program.chmod(0o644)
        ran = self.run_launcher()
        self.assertIn("EACCES", ran.stderr)
        self.assertEqual(ran.returncode, 126)

    def test_a_platform_without_a_program_is_an_error_with_the_list(self) -> None:
        other = self.scratch / "other.js"
        other.write_text("Object.defineProperty(process, 'arch', { value: 'mips' });")
        ran = self.run_launcher(node=("--require", str(other)))
        self.assertIn("-mips, only for linux-x64, linux-arm64, darwin-x64, darwin-arm64, win32-x64\n", ran.stderr)
        self.assertEqual(ran.returncode, 127)


def fill(directory: Path) -> None:
    """Adds an archive for each platform that has none, for scripts/test-packages."""
    present = {path.name for path in directory.iterdir()}
    for target, program in PROGRAMS.items():
        if not any(target in name for name in present):
            add_archive(directory, target, program)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        fill(Path(sys.argv[2]))
    else:
        unittest.main()
