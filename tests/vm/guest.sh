#!/bin/sh
# In the guest of ./dev vm, as root, at each of its boots: run what belongs to this boot, then boot again or power off.
#   guest.sh BASE   where the checkout and its Python packages are mounted
base=$1
done=/var/lib/guest
mkdir -p $done
exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 -opost
echo "guest: $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
echo "guest: exit 0"
systemctl poweroff
