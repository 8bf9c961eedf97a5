#!/bin/sh
# In the guest of ./dev vm: run tests, as whoever calls.
#   pytest.sh BASE TEST…
venv=$(echo "$1"/venv-*)
cd "$1/tree" || exit
shift
# --confcutdir: tests/conftest.py is for the tests on a developer's machine, and keeps these away from it.
# An emulated processor takes thirty times as long.
exec env LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$venv/bin/python" -m pytest \
    -p pytest_timeout -p tests.support.fixtures --confcutdir=tests/vm --override-ini=timeout=300 --durations=5 --color=no -v "$@"
