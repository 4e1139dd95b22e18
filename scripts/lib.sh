# Shared by the scripts: output, tests of port 22, and the installation of missing programs.
# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the scripts that source this

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Firewall tools and sshd may not be in a user's PATH; cargo is where rustup puts it.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin

green='' red='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

ok() { printf '%s✓%s %s\n' "$green" "$plain" "$*"; }
fail() {
    printf '%s✗%s %s\n' "$red" "$plain" "$*"
    exit 1
}

# Whether port 22 of $server accepts a connection from the client; "${client[@]}" runs a command there.
# shellcheck disable=SC2154 # set by the scripts that source this
connects() { "${client[@]}" timeout 1 bash -c "exec 3<>/dev/tcp/$server/22" 2>/dev/null; }

# Whether the port is silent: neither accepted (0) nor refused (1), but timed out (124).
is_silent() {
    local code=0
    connects || code=$?
    ((code == 124))
}

# Whether this is root, or can become root with sudo.
can_be_root() { ((EUID == 0)) || sudo -n true 2>/dev/null || { [[ -t 0 ]] && command -v sudo >/dev/null; }; }
as_root() { if ((EUID == 0)); then "$@"; else sudo -- "$@"; fi; }

# prints_line LINE COMMAND...: whether the command prints this line. Reads all of the output: `| grep -q` would end the command
# with SIGPIPE, which pipefail reports as a failure.
prints_line() {
    local line=$1 output
    shift
    output=$("$@") && grep -qxF -- "$line" <<<"$output"
}

# bootstrap TREE LOG OPTION...: installs a minimal tree of this release of Debian with debootstrap, and sets codename.
bootstrap() {
    local tree=$1 log=$2 mirror proxy=''
    shift 2
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # shellcheck disable=SC2016 # apt's own placeholder
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' "Codename: $codename" \
        'Component: main' | sed -n 1p)
    [[ -n $mirror ]] || fail "apt knows no mirror of $codename"
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    http_proxy=${http_proxy:-$proxy} debootstrap --variant=minbase "$@" "$codename" "$tree" "$mirror" >"$log" 2>&1 ||
        fail "debootstrap: $(tail -n 3 "$log")"
}

# need WHAT=PACKAGE...: installs the packages of missing programs. WHAT is a program, or a file if it has a slash.
need() {
    local pair what packages=()
    for pair; do
        what=${pair%%=*}
        if [[ $what == */* ]]; then [[ -e $what ]]; else command -v "$what" >/dev/null; fi ||
            packages+=("${pair#*=}")
    done
    if ((${#packages[@]} > 0)); then
        install_packages "${packages[@]}"
    fi
    command -v cargo >/dev/null ||
        fail 'cargo is missing: https://rustup.rs, or: curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh'
}

install_packages() {
    command -v apt-get >/dev/null || fail "missing, and this is not Debian or Ubuntu: install these packages (names as in Debian): $*"
    can_be_root || fail "missing, and installing needs root: apt-get install $*"
    as_root env DEBIAN_FRONTEND=noninteractive bash -euo pipefail -s -- "$@" <<'INSTALL'
# One process at a time: two builds can lack the same packages.
exec 9</var/lib/dpkg && flock 9
# Installing must not start a service: this policy forbids it in the meantime.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get update -qq </dev/null
# A new machine may be upgrading itself.
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" </dev/null >/dev/null
# The next boot must not start a daemon that was not installed before.
if command -v systemctl >/dev/null; then
    if [[ " $* " == *' openssh-server '* ]]; then systemctl --quiet disable ssh.service ssh.socket 2>/dev/null || true; fi
    if [[ " $* " == *' etcd-server '* ]]; then systemctl --quiet disable etcd.service 2>/dev/null || true; fi
    if [[ " $* " == *' ipvsadm '* ]]; then systemctl --quiet disable ipvsadm.service 2>/dev/null || true; fi
    if [[ " $* " == *' keepalived '* ]]; then systemctl --quiet disable keepalived.service 2>/dev/null || true; fi
    if [[ " $* " == *' knockd '* ]]; then systemctl --quiet disable knockd.service 2>/dev/null || true; fi
    if [[ " $* " == *' fwknop-server '* ]]; then systemctl --quiet disable fwknop-server.service 2>/dev/null || true; fi
    if [[ " $* " == *' firewalld '* ]]; then systemctl --quiet disable firewalld.service 2>/dev/null || true; fi
    if [[ " $* " == *' tpm2-abrmd '* ]]; then systemctl --quiet disable tpm2-abrmd.service 2>/dev/null || true; fi
    if [[ " $* " == *' ufw '* ]]; then systemctl --quiet disable ufw.service 2>/dev/null || true; fi
fi
INSTALL
    ok "installed: $*"
}

# What cross builds need from PyPI, installed below the target directory.
zig_packages=(cargo-zigbuild==0.24.1 ziglang==0.17.1)
cross_tools=${CARGO_TARGET_DIR:-$top/target}/tools/zig

# need_target TARGET: prepares cargo_for for TARGET: its standard library, and zig as compiler and linker. If that is
# impossible, prints why and returns 1.
need_target() (
    # One process at a time: two builds can share what is installed here.
    mkdir -p "${cross_tools%/*}"
    exec {lock}<"${cross_tools%/*}" && flock "$lock"
    need_standard_library "$1" || return 1
    # rustc makes import libraries for Windows with it.
    [[ $1 != *-windows-gnu ]] || (need x86_64-w64-mingw32-dlltool=binutils-mingw-w64-x86-64) ||
        { unavailable "$1" 'x86_64-w64-mingw32-dlltool is missing' && return 1; }
    [[ -x $cross_tools/bin/cargo-zigbuild && -f $cross_tools/${zig_packages[*]} ]] && return
    # In a subshell, because a failure ends it.
    (need python3=python3 && { python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv; }) ||
        { unavailable "$1" 'python3 with venv is missing' && return 1; }
    rm -rf "$cross_tools"
    { python3 -m venv "$cross_tools" && "$cross_tools/bin/pip" --quiet install "${zig_packages[@]}"; } ||
        { unavailable "$1" "zig cannot be installed: pip install ${zig_packages[*]}" && return 1; }
    : >"$cross_tools/${zig_packages[*]}"
    ok "installed: ${zig_packages[*]}"
)

# need_standard_library TARGET: what `cargo check` for TARGET needs. If that is impossible, prints why and returns 1.
need_standard_library() {
    command -v rustup >/dev/null || { unavailable "$1" 'rustup is missing: https://rustup.rs' && return 1; }
    prints_line "$1" rustup target list --installed || rustup --quiet target add "$1" ||
        { unavailable "$1" "rustup target add $1" && return 1; }
}

# What `cargo build --release` of the client needs as arguments. It spends its time waiting for networks: its own code and its
# command line are compiled for size. Cryptography is not.
released_client=(--config 'profile.release.package.spa-knock.opt-level="s"' --config 'profile.release.package.clap_builder.opt-level="s"'
    --no-default-features --features legacy,fwknop --bin spa-knock)

unavailable() { printf '%s!%s %s: not built here: %s\n' "$red" "$plain" "$1" "$2"; }

# cargo_for TARGET COMMAND ARGUMENT...: runs cargo with the COMMAND build, check or clippy for TARGET, with zig, after
# need_target. The output is below target/TARGET.
cargo_for() {
    local target=$1 command=$2
    shift 2
    [[ $command == build ]] && command=zigbuild
    PATH=$cross_tools/bin:$PATH cargo-zigbuild "$command" --target "$target" "$@"
}

# test_as_root: makes `cargo test` run the tests as root. Returns 1 if that is impossible.
test_as_root() {
    local host runner
    ((EUID != 0)) || return 0
    can_be_root || return 1
    host=$(rustc -vV | sed -n 's/^host: //p')
    runner=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER
    export "$runner=sudo --preserve-env"
}
