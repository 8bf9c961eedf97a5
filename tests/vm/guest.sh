#!/bin/sh
# In the guest of ./dev vm, as root, at each of its boots: run what belongs to this boot, then boot again or power off.
#   guest.sh BASE   where the checkout and its Python packages are mounted
# The second serial port has what the tests say, and in the end the verdict that tests/support/vm.py waits for.
base=$1
here=$base/tree/tests/vm
kept=/var/lib/guest  # on the disk, so it outlives a boot
exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 -opost
ln -sf "$base/dockless" /usr/local/bin/dockless

# run test files as the process of a CI agent, under whatever set-up made of its service
as_agent() {
    systemctl set-environment "TESTS=$*"
    systemctl start --wait gitlab-runner && return
    touch $kept/failed
    journalctl --quiet --no-pager --unit gitlab-runner --lines 20
}

if [ ! -e $kept ]; then
    mkdir $kept
    echo "guest: $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
    # as the package of gitlab-runner would lay it down
    sed "s#@BASE@#$base#g" "$here/gitlab-runner.service" > /etc/systemd/system/gitlab-runner.service
    systemctl daemon-reload
    useradd --system --user-group --create-home --home-dir /var/lib/dockless --shell /bin/sh dockless
    for file in subuid subgid; do echo dockless:1000000:2097152 >> /etc/$file; done
    as_agent tests/vm/test_limits.py
    systemctl reboot
else
    echo "guest: up again, for $(cut -d ' ' -f 1 /proc/uptime) s"
    if [ -e $kept/failed ]; then echo "guest: exit 1"; else echo "guest: exit 0"; fi
    systemctl poweroff
fi
