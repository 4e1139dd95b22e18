# The client's archives, and the installers that fetch them.
# shellcheck shell=bash
# shellcheck disable=SC2154 # top is set by lib.sh, version by reproducible.sh

# pack_client PROGRAM PRINTER TARGET OUTPUT: packs a client for TARGET into the directory OUTPUT. PRINTER is a client that
# runs here, and prints man page and completions.
pack_client() {
    local program=$1 printer=$2 target=$3 output=$4 scratch name tree suffix='' shell
    name=spa-knock-$version-$target
    case $target in *windows*) suffix=.exe ;; esac
    scratch=$(mktemp -d) tree=$scratch/$name
    install -d "$tree/man" "$tree/completions"
    install "$program" "$tree/spa-knock$suffix"
    if [[ -n $suffix ]]; then set_link_time "$tree/spa-knock$suffix"; fi
    install -m 644 "$top"/{README,CHANGELOG}.md "$top"/LICENSE-{MIT,APACHE} "$tree"
    print_licenses "$target" >"$tree/THIRD-PARTY-LICENSES.txt"
    "$printer" man >"$tree/man/spa-knock.1"
    install -m 644 "$top/docs/man/spa-knock-key.5" "$tree/man"
    for shell in bash:spa-knock.bash zsh:_spa-knock fish:spa-knock.fish powershell:spa-knock.ps1; do
        "$printer" completions "${shell%:*}" >"$tree/completions/${shell#*:}"
    done
    chmod -R u=rwX,go=rX "$tree"
    if [[ -n $suffix ]]; then
        (cd "$scratch" && zip_up "$output/$name.zip" "$name")
    else
        (cd "$scratch" && tar_gz "$output/$name.tar.gz" "$name")
    fi
    rm -r "$scratch"
}

# set_link_time PROGRAM: the time of the last commit in the header of a Windows program, where zig's linker writes the clock's.
set_link_time() {
    python3 - "$1" "$SOURCE_DATE_EPOCH" <<'PATCH'
import struct
import sys

with open(sys.argv[1], "r+b") as program:
    program.seek(0x3C)
    (header,) = struct.unpack("<I", program.read(4))
    program.seek(header)
    assert program.read(4) == b"PE\0\0"
    # Its checksum must be absent: it would have to change, too.
    program.seek(header + 24 + 64)
    assert program.read(4) == b"\0\0\0\0"
    program.seek(header + 8)
    program.write(struct.pack("<I", int(sys.argv[2])))
PATCH
}

# print_licenses TARGET: of all crates in the client for TARGET.
print_licenses() { "$top/scripts/crates" licenses --client "$1"; }

# write_installers OUTPUT [PUBLIC_KEY]: install.sh and install.ps1 for this version, which trust this key.
write_installers() {
    local output=$1 key=${2:-} repository installer
    repository=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^repository = "(.*)"$/\1/p' "$top/Cargo.toml")
    for installer in install.sh install.ps1; do
        sed -e "s|@VERSION@|$version|g" -e "s|@PUBLIC_KEY@|$key|g" \
            -e "s|@RELEASE_URL@|$repository/releases/download/v$version|g" "$top/packaging/$installer" >"$output/$installer"
    done
    chmod 755 "$output/install.sh"
    chmod 644 "$output/install.ps1"
}

# write_checksums DIRECTORY: SHA256SUMS of all other files in it.
write_checksums() {
    local sums
    sums=$(cd "$1" && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' ! -name spa-knock.pub -printf '%P\0' |
        LC_ALL=C sort -z | xargs -0 sha256sum --)
    rm -f "$1/SHA256SUMS.minisig"
    echo "$sums" >"$1/SHA256SUMS"
}
