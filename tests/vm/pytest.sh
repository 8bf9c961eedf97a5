#!/bin/sh
# In the guest of ./dev vm: run the tests of a directory, as whoever calls.
#   pytest.sh BASE DIRECTORY
venv=$(echo "$1"/venv-*)
cd "$1/tree" || exit
# --confcutdir: what holds for tests on a developer's machine is not loaded. An emulated processor takes twenty times as long.
exec env LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
    "$venv/bin/python" -m pytest -p pytest_timeout -p tests.e2e.conftest -o timeout=300 --confcutdir=tests/vm --durations=0 -v "$2"
