#!/bin/sh
# In the guest of ./dev vm, as root, at each of its boots: run what belongs to this boot, then boot again or power off.
#   guest.sh BASE   where the checkout and its Python packages are mounted
base=$1
venv=$(echo "$base"/venv-*)
done=/var/lib/guest
mkdir -p $done
exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 -opost
echo "guest: $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"

failed() { echo 1 > $done/code; }

# as the package of gitlab-runner would lay it down; here the tests are the agent
cat > /etc/systemd/system/gitlab-runner.service << UNIT
[Service]
Type=exec
User=dockless
Delegate=yes
ExecStart=/bin/sh -c 'd=/sys/fs/cgroup/system.slice/gitlab-runner.service; mkdir \$d/agent && echo \$\$\$\$ > \$d/agent/cgroup.procs && exec /bin/sh $base/tree/tests/vm/pytest.sh $base tests/vm/agent'
StandardOutput=append:/dev/ttyS1
StandardError=append:/dev/ttyS1
UNIT
systemctl daemon-reload
useradd --system --user-group --create-home --home-dir /var/lib/dockless --shell /bin/sh dockless
for file in subuid subgid; do echo dockless:1000000:1048576 >> /etc/$file; done
systemctl start --wait gitlab-runner || failed
[ -e $done/code ] || echo 0 > $done/code
echo "guest: exit $(cat $done/code)"
systemctl poweroff
