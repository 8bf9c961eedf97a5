"""Addresses and routes of this network namespace by netdevice(7): a few requests that are too simple for starting a program."""

from __future__ import annotations

import errno
import fcntl
import os
from _struct import pack, unpack_from  # struct.py only passes it on

from runner.kernel import syscalls

_SIOCADDRT, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x890B, 0x8916, 0x891C, 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 1
_RTF_UP, _RTF_GATEWAY = 1, 2  # linux/route.h
_AF_INET = 2
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x2, 0x1000


def _sockaddr(address: str) -> bytes:
    return pack("=HH4s8x", _AF_INET, 0, bytes(int(octet) for octet in address.split(".")))


def _request(number: int, argument: bytes) -> bytes:
    fd = syscalls.socket(_AF_INET)
    try:
        return fcntl.ioctl(fd, number, argument)
    finally:
        os.close(fd)


def _ifreq(device: str, value: bytes) -> bytes:
    if len(device) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device)
    return pack("16s24s", device.encode(), value)


def set_up(device: str) -> None:
    """Activate a device."""
    (flags,) = unpack_from("=H", _request(_SIOCGIFFLAGS, _ifreq(device, b"")), 16)
    _request(_SIOCSIFFLAGS, _ifreq(device, pack("=H", flags | _IFF_UP)))


def make_tap(device: str, *, tun: str = "/dev/net/tun") -> None:
    """Make a tap device that stays when the program that uses it ends: taking it away then would hold up that program's end."""
    fd = os.open(tun, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _ifreq(device, pack("=H", _IFF_TAP | _IFF_NO_PI)))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def set_address(device: str, address: str, netmask: str) -> None:
    """Give a device its IPv4 address."""
    _request(_SIOCSIFADDR, _ifreq(device, _sockaddr(address)))
    _request(_SIOCSIFNETMASK, _ifreq(device, _sockaddr(netmask)))


def add_default_route(gateway: str) -> None:
    """Send everything that is not near to a gateway."""
    everything = _sockaddr("0.0.0.0")
    # struct rtentry of 64-bit Linux: rt_pad1, rt_dst, rt_gateway, rt_genmask, rt_flags, and 64 bytes that stay 0
    entry = pack("=Q16s16s16sH62x", 0, everything, _sockaddr(gateway), everything, _RTF_UP | _RTF_GATEWAY)
    _request(_SIOCADDRT, entry)
