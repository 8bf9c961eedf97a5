#!/bin/sh
# The process of gitlab-runner.service in the guest of ./dev vm: run tests as the account, which an agent's root leaves for it.
#   agent.sh BASE TEST…
# The delegation is made right after the start of a service, and no agent gets a job that soon.
until grep -q '/agent$' /proc/self/cgroup; do sleep 0.1; done
[ "$(id -u)" -ne 0 ] || account="setpriv --reuid=dockless --regid=dockless --clear-groups --reset-env"
exec ${account:-} sh "$1/tree/tests/vm/pytest.sh" "$@"
