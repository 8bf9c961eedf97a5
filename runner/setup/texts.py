"""The files of systemd that a prepared machine has (systemd.unit(5), systemd.service(5))."""

import shlex


def unit(program: str, *, account: str, state_dir: str) -> str:
    """Return the unit that mounts the views at boot, before the CI agents start, and makes layers safe on the disk at shutdown."""
    start = _command(program, account=account, state_dir=state_dir)
    return f"""# made by `dockless setup`
[Unit]
Description=Views of the image layers that build users of dockless share
Documentation=man:mount_setattr(2)
RequiresMountsFor={state_dir}
Before=gitlab-runner.service jenkins.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={start} --views
ExecStop={start} --settle

[Install]
WantedBy=multi-user.target
"""


def drop_in(program: str, *, account: str) -> str:
    """Return the addition to a CI agent's unit: its control group is the account's to divide.

    The agent's own processes have to sit in a group below, since one with processes cannot hand controllers on; systemd can start them
    there only since 254 (DelegateSubgroup=), so that they are moved right after the start.
    """
    return f"""# made by `dockless setup`
[Unit]
Wants=dockless-views.service
After=dockless-views.service

[Service]
Delegate=yes
ExecStartPost=+{_command(program, account=account, state_dir="")} --delegate
"""


def _command(program: str, *, account: str, state_dir: str) -> str:
    words = [program, *(["--state-dir", state_dir] if state_dir else []), "setup", "--account", account]
    return shlex.join(words).replace("%", "%%").replace("$", "$$")
