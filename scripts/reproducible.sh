# Builds and archives that depend on the source and the toolchain alone: not on directories, time, user, locale or umask.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # used by the scripts that source this; top is set by lib.sh

version=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "(.*)"$/\1/p' "$top/Cargo.toml")
build=${CARGO_TARGET_DIR:-$top/target}

# For programs that are called from here: the time of the last commit, no paths of this machine in programs, and no symbols.
make_reproducible() {
    local sysroot commit sources flags=() IFS=$'\x1f'
    umask 022
    export LC_ALL=C.UTF-8 TZ=UTC CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_STRIP=symbols
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || stat -c %Y "$top/CHANGELOG.md")}
    # The sources of crates must be there before their directory can be named.
    (cd "$top" && cargo fetch --quiet --locked)
    sysroot=$(rustc --print sysroot)
    commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
    # The last prefix that matches is replaced.
    flags=("--remap-path-prefix=$top=/spa-knock" "--remap-path-prefix=$build=/spa-knock/target"
        "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit")
    for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do flags+=("--remap-path-prefix=$sources=/crates"); done
    export CARGO_ENCODED_RUSTFLAGS="${flags[*]}"
    unset RUSTFLAGS
    # Another build that waits for its turn must not keep zig's cache locked.
    export ZIG_GLOBAL_CACHE_DIR=$build/zig-cache
}

# set_times DIRECTORY: the time of the last commit for everything in it, links too.
set_times() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }

# tar_gz FILE NAME: packs the directory NAME of the current directory.
tar_gz() {
    tar --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$2" | gzip -9n >"$1"
}

# zip_up FILE NAME: the same as .zip. Its times have no zone and its permissions no owner.
zip_up() {
    set_times "$2"
    rm -f "$1"
    find "$2" -type f | LC_ALL=C sort | zip -9 -X -q -@ "$1"
}
