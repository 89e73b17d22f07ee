# Sourced by the other scripts: named and timed steps, Debian packages on demand, commands to run at the end.

STEPS_DONE=()
UNDO=()

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step NAME COMMAND...: runs the command and records its time. The script ends if it fails.
step() {
    local name=$1 begin=$SECONDS code=0
    shift
    say ""
    say "=== $name"
    # Not `|| code=$?`, which would disable `set -e` inside the function.
    set +e
    (
        set -e
        "$@"
    )
    code=$?
    set -e
    STEPS_DONE+=("$(printf '%6d s  %-6s %s' $((SECONDS - begin)) "$([ $code = 0 ] && echo ok || echo FAILED)" "$name")")
    [ $code = 0 ] || exit $code
}

# on_exit COMMAND...: runs the command when the script ends for any reason. The last one runs first.
on_exit() { UNDO=("$(printf '%q ' "$@")" "${UNDO[@]}"); }

finish() {
    local code=$? command
    trap - EXIT
    # A second interrupt must not stop the clean-up.
    trap '' INT TERM HUP
    set +e
    for command in "${UNDO[@]}"; do eval "$command"; done
    if [ ${#STEPS_DONE[@]} -gt 0 ]; then
        say ""
        say "=== time of each step"
        printf '%s\n' "${STEPS_DONE[@]}" >&2
    fi
    exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# as_root COMMAND...: runs the command as root, with sudo if needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        die "\`$*\` needs root, and there is no sudo"
    fi
}

# need COMMAND PACKAGE...: installs the Debian packages if COMMAND is missing.
need() {
    local command=$1
    shift
    # Administration tools are not on every user's PATH.
    PATH=$PATH:/usr/sbin:/sbin
    command -v "$command" > /dev/null && return
    command -v apt-get > /dev/null || die "$command is missing (Debian: $*), and there is no apt-get to install it with"
    say "installing $*"
    apt_install "$@" || die "$command is missing, and installing $* failed"
    command -v "$command" > /dev/null || die "$* is installed, but $command is still missing"
}

# apt_install PACKAGE...: installs without recommended packages. If that fails, updates the package lists and tries again.
apt_install() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@")
    as_root "${install[@]}" > /dev/null 2>&1 && return
    as_root apt-get update > /dev/null && as_root "${install[@]}" > /dev/null
}
