# Shared by the demos: a room of their own in which they are root, processes that end with them, and sshd.
# shellcheck shell=bash
# shellcheck disable=SC2154 # set in lib.sh

# Not optimized: that builds faster, and a knock still takes milliseconds.
bin=${CARGO_TARGET_DIR:-$top/target}/debug

# Runs this script again with --inside, in a network and a mount namespace of its own. Without root, a user namespace gives
# privileges inside it; the user stays the same there, because sshd admits no other.
enter_namespaces() {
    local room=(unshare --net --mount)
    if ! can_be_root; then
        room=(unshare --map-current-user --keep-caps --net --mount)
        "${room[@]}" true 2>/dev/null ||
            fail 'this needs root, sudo or user namespaces (on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns)'
        exec "${room[@]}" "$0" --inside
    fi
    if ((EUID == 0)); then exec "${room[@]}" "$0" --inside; fi
    exec sudo -- "${room[@]}" env CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-}" "$0" --inside
}

# Makes a directory for everything, and sees to it that nothing of this script remains.
begin_inside() {
    # The processes that this script has started.
    started=()
    scratch=$(mktemp -d)
    trap 'trap - EXIT; clean_up' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # sshd needs /run/sshd; this one is visible only here.
    mount -t tmpfs tmpfs /run
    mkdir -m 755 /run/sshd
    cd "$scratch"
}

clean_up() {
    if ((${#started[@]} > 0)); then
        kill "${started[@]}" 2>/dev/null || true
        wait "${started[@]}" 2>/dev/null || true
    fi
    cd / && rm -rf "$scratch"
}

# The keys of host and user, and the config of an sshd that admits this user with that key alone.
write_sshd_config() {
    ssh-keygen -q -t ed25519 -N '' -f host
    ssh-keygen -q -t ed25519 -N '' -f user
    # Without PAM, sshd refuses an account whose password is locked.
    local pam=no
    if [[ $(getent shadow "$(id -un)" 2>/dev/null | cut -d: -f2) == '!'* ]]; then pam=yes; fi
    cat >sshd_config <<CONFIG
Port 22
HostKey $scratch/host
AuthorizedKeysFile $scratch/user.pub
PidFile none
UsePAM $pam
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
CONFIG
}

# own_user CONFIG: without root, the user namespace has no other user that the daemon's processes could become.
own_user() {
    if ((EUID != 0)); then
        sed -i -e '/^#\? *user = /d' -e "/^\[server\]/a user = \"$(id -un)\"" "$1"
    fi
}

# wait_for PID LOG COMMAND...: until the command succeeds. Fails if the process has exited, or after a minute.
wait_for() {
    local pid=$1 log=$2 end=$((SECONDS + 60))
    shift 2
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || fail "$(cat "$log")"
        ((SECONDS < end)) || fail "waited too long: $(cat "$log")"
        sleep 0.1
    done
}
