"""Which boot of the machine this is."""


def boot_id() -> str:
    """Return the kernel's random id of this boot (random(4)): pids and start times mean nothing after the next one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()
