# Where dockless is: on the PATH, or where ./dev setup puts it. Prints the path; fails where it is neither.
# To be sourced: POSIX shell has no other way to share a function.

find_dockless() {
    command -v dockless && return 0
    [ -x "${DOCKLESS_PREFIX:-/opt/dockless}/dockless" ] && printf '%s\n' "${DOCKLESS_PREFIX:-/opt/dockless}/dockless"
}
