#!/bin/sh
# Installs the client spa-knock from a release, or removes it. Needs no root. Everything is verified before the first file
# of an installation changes.
set -eu

version='@VERSION@'
release=${SPA_KNOCK_RELEASE_URL:-'@RELEASE_URL@'}
release=${release%/}
# minisign's public key, which signs the checksums. Empty if the release is not signed.
public_key='@PUBLIC_KEY@'

usage() {
    cat <<USAGE
usage: install.sh [--prefix DIRECTORY] [--uninstall]

  --prefix DIRECTORY  install below this directory instead of $default_prefix
  --uninstall         remove unmodified installed files; keep keys and profiles

SPA_KNOCK_RELEASE_URL is a directory, a file:// or an https:// URL with the files of the release:
$release
USAGE
}

main() {
    uninstall=no
    if [ -n "${TERMUX_VERSION:-}" ] && [ -n "${PREFIX:-}" ]; then default_prefix=$PREFIX; else default_prefix=${HOME:?}/.local; fi
    prefix=$default_prefix
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix)
                if [ $# -eq 1 ]; then usage >&2 && exit 2; fi
                prefix=$2
                shift
                ;;
            --prefix=*) prefix=${1#*=} ;;
            --uninstall) uninstall=yes ;;
            --help | -h) usage && exit ;;
            *) usage >&2 && exit 2 ;;
        esac
        shift
    done
    case $prefix in /*) ;; *) prefix=$(pwd)/$prefix ;; esac
    prefix=${prefix%/}
    list=$prefix/share/spa-knock/installed-client
    umask 022
    if [ "$uninstall" = yes ]; then
        remove_all
        return
    fi

    target=$(find_target)
    archive=spa-knock-$version-$target.tar.gz
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/spa-knock.XXXXXX")
    forget_unfinished
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    verifier=$(find_verifier)
    refuse_plain_http
    fetch SHA256SUMS
    verify_signature
    fetch "$archive"
    verify_checksum
    unpack
    refuse_to_replace
    stage
    put
    report
}

# What clean_up would remove.
forget_unfinished() {
    : >"$scratch/directories"
    : >"$scratch/unfinished"
}

# Removes what is unfinished, and the directories that were made for it.
clean_up() {
    while read -r path; do rm -f "$path"; done <"$scratch/unfinished"
    reversed "$scratch/directories" | while read -r path; do rmdir "$path" 2>/dev/null || :; done
    rm -rf "$scratch"
}

reversed() { sed -n '1!G;h;$p' "$1"; }

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    shift
    for line; do printf '%s\n' "$line" >&2; done
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The target of this machine, as in the names of archives.
find_target() {
    system=$(uname -s) machine=$(uname -m)
    # A shell that Rosetta translates reports x86_64.
    if [ "$system" = Darwin ] && [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" = 1 ]; then machine=arm64; fi
    case $machine in
        x86_64 | amd64) machine=x86_64 ;;
        aarch64 | arm64) machine=aarch64 ;;
    esac
    case $system in
        Linux) target=$machine-unknown-linux-musl ;;
        Darwin) target=$machine-apple-darwin ;;
        MINGW* | MSYS* | CYGWIN*) fail 'this is Windows' 'hint: run install.ps1 in PowerShell' ;;
        *) target= ;;
    esac
    case $target in
        x86_64-* | aarch64-*) echo "$target" ;;
        *) fail "$system on $machine: there is no archive for it" "hint: build the client from source with cargo" ;;
    esac
}

# fetch NAME: a file of the release, into the scratch directory.
fetch() {
    case $release in
        https://*) download "$1" '=https' ;;
        http://*) download "$1" '=http,https' ;;
        file://*) copy "${release#file://}/$1" "$1" ;;
        *://*) fail "SPA_KNOCK_RELEASE_URL=$release: neither a directory nor a file:// or https:// URL" ;;
        *) copy "$release/$1" "$1" ;;
    esac
}

copy() { cp "$1" "$scratch/$2" || fail "$1: cannot be read; nothing is installed"; }

download() {
    if have curl; then
        curl --fail --silent --show-error --location --proto "$2" --output "$scratch/$1" "$release/$1"
    elif have wget; then
        wget -q -O "$scratch/$1" "$release/$1"
    else
        fail 'neither curl nor wget is installed' 'hint: install curl'
    fi || fail "$release/$1: not downloaded; nothing is installed"
}

# The program that verifies signatures, or nothing.
find_verifier() {
    if [ -z "$public_key" ]; then return; fi
    # Debian has another program named signify.
    for program in minisign signify-openbsd signify; do
        if have $program && { [ $program != signify ] || signify 2>&1 </dev/null | grep -q 'signify -V'; }; then
            echo $program
            return
        fi
    done
}

# Without a signature, anyone on the way could replace archive and checksum.
refuse_plain_http() {
    case $release in
        http://127.0.0.1[:/]* | http://localhost[:/]* | http://'[::1]'[:/]*) ;;
        http://*)
            if [ -z "$verifier" ]; then
                fail "$release: without a signature and minisign or signify, only https:// is accepted; nothing is installed"
            fi
            ;;
    esac
}

# The key is part of this script: a server of files cannot replace it.
verify_signature() {
    if [ -z "$verifier" ]; then
        if [ -n "$public_key" ]; then echo 'the signature is not verified: neither minisign nor signify is installed'; fi
        return
    fi
    fetch SHA256SUMS.minisig
    if [ "$verifier" = minisign ]; then
        minisign -V -q -P "$public_key" -m "$scratch/SHA256SUMS" -x "$scratch/SHA256SUMS.minisig"
    else
        printf 'untrusted comment: spa-knock\n%s\n' "$public_key" >"$scratch/key.pub"
        "$verifier" -V -q -p "$scratch/key.pub" -m "$scratch/SHA256SUMS" -x "$scratch/SHA256SUMS.minisig"
    fi || fail 'SHA256SUMS: wrong signature: the files are not of this release; nothing is installed'
}

checksum() {
    if have sha256sum; then sha256sum; elif have shasum; then shasum -a 256; elif have openssl; then openssl dgst -sha256 -r; else
        fail 'no program computes SHA-256' 'hint: install sha256sum, shasum or openssl'
    fi <"$1" | cut -d ' ' -f 1
}

verify_checksum() {
    expected=$(awk -v name="$archive" '$2 == name || $2 == "*" name { print $1 }' "$scratch/SHA256SUMS")
    if [ -z "$expected" ]; then fail "SHA256SUMS: the release has no $archive; nothing is installed"; fi
    actual=$(checksum "$scratch/$archive")
    if [ "${#actual}" -ne 64 ] || [ "$actual" != "$expected" ]; then
        fail "$archive: SHA-256 is $actual, but SHA256SUMS has $expected: damaged or altered; nothing is installed"
    fi
}

unpack() {
    tar -xzf "$scratch/$archive" -C "$scratch" || fail "$archive: not unpacked; nothing is installed"
    tree=$scratch/${archive%.tar.gz}
    files | while read -r from path; do [ -f "$tree/$from" ] || fail "$archive: lacks $from; nothing is installed"; done
}

# Files in the archive and where they are installed, the program last.
files() {
    cat <<FILES
man/spa-knock.1 share/man/man1/spa-knock.1
man/spa-knock-key.5 share/man/man5/spa-knock-key.5
completions/spa-knock.bash share/bash-completion/completions/spa-knock
completions/_spa-knock share/zsh/site-functions/_spa-knock
completions/spa-knock.fish share/fish/vendor_completions.d/spa-knock.fish
spa-knock bin/spa-knock
FILES
}

# Files that this script has not installed stay.
refuse_to_replace() {
    files | while read -r from path; do
        if [ ! -e "$prefix/$path" ] && [ ! -L "$prefix/$path" ]; then continue; fi
        if [ -f "$list" ] && grep -q "^file [0-9a-f]* $path\$" "$list"; then continue; fi
        fail "$prefix/$path: not of install.sh; nothing is installed" 'hint: move it away, or use another --prefix'
    done
}

# Copies everything beside its place, where it can be renamed, and tries the program.
stage() {
    : >"$scratch/list"
    files | while read -r from path; do
        make_directory "$(dirname "$prefix/$path")"
        printf '%s\n' "$prefix/$path.new" >>"$scratch/unfinished"
        cp "$tree/$from" "$prefix/$path.new" || fail "$prefix/$path: cannot be written; nothing is installed"
        chmod 644 "$prefix/$path.new"
        echo "file $(checksum "$tree/$from") $path" >>"$scratch/list"
    done
    chmod 755 "$prefix/bin/spa-knock.new"
    if [ "$("$prefix/bin/spa-knock.new" --version 2>&1)" != "spa-knock $version" ]; then
        fail "the program for $target does not run here, or not below $prefix; nothing is installed"
    fi
    make_directory "$(dirname "$list")"
    printf '%s\n' "$list.new" >>"$scratch/unfinished"
    # Directories of an older version are ours, too.
    {
        if [ -f "$list" ]; then sed -n '/^directory /p' "$list"; fi
        sed -n "s|^$prefix/|directory - |p" "$scratch/directories"
        cat "$scratch/list"
    } >"$list.new"
}

# make_directory PATH: with its parents, and remembers which are new.
make_directory() {
    if [ -d "$1" ]; then return; fi
    make_directory "$(dirname "$1")"
    mkdir "$1" || fail "$1: cannot be made; nothing is installed"
    printf '%s\n' "$1" >>"$scratch/directories"
}

# Nothing but renaming, which no signal interrupts.
put() {
    trap '' HUP INT TERM
    old=
    if [ -f "$list" ]; then
        old=$("$prefix/bin/spa-knock" --version 2>/dev/null) || old='spa-knock'
        cp "$list" "$scratch/old"
    fi
    mv -f "$list.new" "$list"
    files | while read -r from path; do mv -f "$prefix/$path.new" "$prefix/$path"; done
    forget_unfinished
    # Files of an older version that this one does not have.
    if [ -n "$old" ]; then
        awk 'NR == FNR { new[$3]; next } $1 == "file" && !($3 in new)' "$list" "$scratch/old" | remove
    fi
}

report() {
    echo "installed spa-knock $version${old:+ over $old}: $prefix/bin/spa-knock"
    case :$PATH: in
        *:"$prefix/bin":*)
            first=$(command -v spa-knock)
            if [ "$first" != "$prefix/bin/spa-knock" ]; then echo "hint: $first comes first in PATH: remove it"; fi
            ;;
        *)
            case ${SHELL:-} in
                */fish) echo "hint: it is not in PATH: fish_add_path $prefix/bin" ;;
                *) echo "hint: it is not in PATH; add this line to ~/.profile and log in again: PATH=$prefix/bin:\$PATH" ;;
            esac
            ;;
    esac
}

# remove: the files that standard input lists, as long as they are unmodified.
remove() {
    while read -r _ sum path; do
        if [ ! -e "$prefix/$path" ]; then continue; fi
        if [ "$(checksum "$prefix/$path")" = "$sum" ]; then
            rm -f "$prefix/$path"
        else
            echo "$prefix/$path has been modified and stays"
        fi
    done
}

remove_all() {
    if [ ! -f "$list" ]; then fail "$list: no such file: install.sh has installed nothing below $prefix"; fi
    sed -n '/^file /p' "$list" | remove
    directories=$(reversed "$list" | sed -n 's/^directory - //p')
    rm -f "$list"
    printf '%s\n' "$directories" | while read -r path; do
        if [ -n "$path" ]; then rmdir "$prefix/$path" 2>/dev/null || :; fi
    done
    echo "removed from $prefix; keys and profiles stay"
}

# The last line: a script that arrives incomplete does nothing.
main "$@" </dev/null
