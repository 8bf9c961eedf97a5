#!/bin/sh
# Install dockless unless it is there: the packages and the program from the checkout that this action is part of, and what the
# runner's own account needs. Runs as that account, with sudo where root is needed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ci-templates/github/step/find.sh
. "$here/find.sh"
switch=${DOCKLESS_PROC:-/proc}/sys/kernel/apparmor_restrict_unprivileged_userns
account=$(id -un)

die() {
    printf '::error::%s\n' "$1" >&2
    shift
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

if program=$(find_dockless); then
    echo "dockless is there: $program"
    exit 0
fi
repository=$(cd "$here/../../.." && pwd)
[ -r "$repository/dev" ] || die "dockless is not installed, and this copy of the action has no checkout of it to install from" \
    "use the action by its repository: uses: OWNER/dockless/ci-templates/github/step@REF"
[ "$(id -u)" -ne 0 ] || die "the runner runs as root, whose rights the engine is never to have" \
    "run the runner as an account of its own"
"${DOCKLESS_PYTHON:-/usr/bin/python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die \
    "dockless needs Python 3.11 or later as /usr/bin/python3" "use a newer system, such as runs-on: ubuntu-24.04"
sudo -n true 2>/dev/null || die "dockless is not installed, and the runner's account $account may not use sudo without a password" \
    "once, as root: $repository/dev setup && ln -sfn /opt/dockless/dockless /usr/local/bin/dockless" \
    "               dockless setup --account $account"

# Ubuntu since 23.10 takes away what a process has in a user namespace that it makes, unless a profile of AppArmor lets it
if [ "$(cat "$switch" 2>/dev/null || echo 0)" = 1 ]; then
    if [ "${RUNNER_ENVIRONMENT:-}" = github-hosted ]; then
        # this machine is thrown away after the job
        echo "AppArmor restricts user namespaces of unprivileged processes: switching that off on this machine"
        sudo -n sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0
    else
        die "AppArmor of this machine restricts user namespaces, without which there are no rootless containers" \
            "an administrator decides that, once, as root (docs/github-step.md says what it means):" \
            "    echo kernel.apparmor_restrict_unprivileged_userns=0 >> /etc/sysctl.d/90-dockless.conf && sysctl --system"
    fi
fi

echo "::group::Installing dockless"
sudo -n sh "$repository/dev" setup
sudo -n ln -sfn "${DOCKLESS_PREFIX:-/opt/dockless}/dockless" /usr/local/bin/dockless
sudo -n "${DOCKLESS_PREFIX:-/opt/dockless}/dockless" setup --no-systemd --account "$account"
echo "::endgroup::"
