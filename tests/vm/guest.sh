#!/bin/sh
# In the guest of ./dev vm, as root, at each of its boots: run what belongs to this boot, then boot again or power off.
#   guest.sh BASE   where the checkout and its Python packages are mounted
# The second serial port has what the tests say, and in the end the verdict that tests/support/vm.py waits for.
base=$1
here=$base/tree/tests/vm
kept=/var/lib/guest  # on the disk, so it outlives a boot
unit=/etc/systemd/system/gitlab-runner.service
exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 -opost

# run tests as root
as_root() {
    sh "$here/pytest.sh" "$base" "$@" || touch $kept/failed
}

# run tests as the processes of a CI agent, under whatever set-up made of its service
as_agent() {
    systemctl set-environment "TESTS=$*"
    systemctl start --wait gitlab-runner && return
    touch $kept/failed
    journalctl --quiet --no-pager --unit gitlab-runner --lines 20
}

if [ ! -e $kept ]; then
    echo "guest: $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
    mkdir $kept
    ln -s "$base/dockless" /usr/local/bin/dockless
    sed "s#@BASE@#$base#g" "$here/gitlab-runner.service" > $unit
    systemctl daemon-reload
    as_root tests/vm/test_setup.py
    as_agent tests/vm/test_limits.py
    systemctl reboot
else
    echo "guest: up again, for $(cut -d ' ' -f 1 /proc/uptime) s"
    as_root tests/vm/test_reboot.py tests/vm/test_sharing.py
    # now an agent that is not root
    sed -i 's/^\[Service\]$/&\nUser=dockless/' $unit
    systemctl daemon-reload
    as_agent tests/vm/test_limits.py::test_too_much_memory_ends_the_container_and_is_named tests/vm/test_limits.py::test_doctor_is_content
    sed -i '/^User=dockless$/d' $unit
    systemctl daemon-reload
    as_root tests/vm/test_undo.py
    if [ -e $kept/failed ]; then echo "guest: exit 1"; else echo "guest: exit 0"; fi
    systemctl poweroff
fi
