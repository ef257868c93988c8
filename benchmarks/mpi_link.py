"""Two ranks in two network namespaces, joined by a link of limited bandwidth and added latency.

`placed` makes of a command for two ranks one that runs each in a namespace of its own. No rights
are needed where user namespaces are allowed. Bandwidth alone is limited by the kernel (a veth pair,
a token bucket on both ends). Latency is added by the kernel's ``netem`` where it has that;
elsewhere the packets, of up to 64 kB, pass between two TUN devices through a process that holds
each of them back (`hold_back`), which costs some of a core.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import re
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

# inside a user namespace of its own; its arguments: the job
_SCRIPT = """
set -e
unshare -n sleep 3600 < /dev/null > /dev/null 2>&1 & other=$!
line=
trap 'kill $other $line 2> /dev/null' EXIT
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
there="nsenter -t $other -n"
if [ "$HOLD" = 1 ]; then
  "$PYTHON" "$LINK" $other $BYTES $DELAY < /dev/null > /dev/null & line=$!
  until ip link show v0 > /dev/null 2>&1 && $there ip link show v1 > /dev/null 2>&1; do
    sleep 0.02; done
  ip link set v0 mtu 65000 addrgenmode none; $there ip link set v1 mtu 65000 addrgenmode none
  ip addr add 10.9.0.1 peer 10.9.0.2 dev v0; $there ip addr add 10.9.0.2 peer 10.9.0.1 dev v1
else
  ip link add v0 type veth peer name v1
  ip link set v1 netns $other
  ip addr add 10.9.0.1/24 dev v0; $there ip addr add 10.9.0.2/24 dev v1
fi
ip link set v0 up; ip link set lo up; $there ip link set v1 up; $there ip link set lo up
if [ "$HOLD" = 1 ]; then :
elif [ "$DELAY" != 0 ]; then tc qdisc add dev v0 root netem delay ${DELAY}ms $NETEM
  $there tc qdisc add dev v1 root netem delay ${DELAY}ms $NETEM
elif [ "$RATE" != none ]; then tc qdisc add dev v0 root tbf rate $RATE burst 256kb latency 100ms
  $there tc qdisc add dev v1 root tbf rate $RATE burst 256kb latency 100ms; fi
export OTHER=$other
"$@"
"""
_RANK = """export FI_TCP_IFACE=v$PMI_RANK
if [ "$PMI_RANK" = 1 ]; then exec nsenter -t $OTHER -n "$@"; else exec "$@"; fi"""
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def placed(own: list[str], rate: str, delay: float) -> tuple[list[str], dict[str, str]]:
    """The command that runs two ranks of ``own`` on both ends of a link, and its environment.

    Args:
        rate: as ``tc`` has it (``100mbit``), or ``none``.
        delay: milliseconds that each way takes longer.
    """
    from codegen.mpi.launch import mpiexec

    held = delay > 0 and not kernel_delays()
    environment = {
        **os.environ, "RATE": rate, "DELAY": f"{delay:g}", "HOLD": str(int(held)),
        "BYTES": f"{bytes_of(rate):.0f}", "NETEM": "" if rate == "none" else f"rate {rate}",
        "PYTHON": sys.executable, "LINK": str(Path(__file__).resolve()),
        "MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
    return ["unshare", "-rn", "sh", "-c", _SCRIPT, "sh", *mpiexec(), "-n", "2", "sh", "-c", _RANK,
            "sh", *own], environment


def kernel_delays() -> bool:
    """Whether the kernel has ``netem``."""
    done = subprocess.run(["unshare", "-rn", "tc", "qdisc", "add", "dev", "lo", "root", "netem",
                           "delay", "1ms"], capture_output=True, check=False)
    return done.returncode == 0


def bytes_of(rate: str) -> float:
    """Bytes a second of a rate; 0 where there is no limit."""
    if rate == "none":
        return 0.0
    found = re.fullmatch(r"([\d.]+)([kmg]bit)", rate)
    if found is None:
        raise SystemExit(f"no rate: {rate!r}; expected 10gbit, 100mbit or none")
    return float(found[1]) * _UNITS[found[2]] / 8


def hold_back(other: int, rate: float, delay: float) -> None:
    """Carry packets between a TUN device here and one in a process's namespace.

    Args:
        rate: bytes a second, each way; 0: no limit.
        delay: seconds that a packet is held back after it has passed.
    """
    ends = [_device("v0")]
    place = os.open(f"/proc/{other}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(place, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")
    ends.append(_device("v1"))
    free = [0.0, 0.0]  # when each way is free again
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        now = time.monotonic()
        open_ends = [ends[way] for way in (0, 1) if free[way] - now < 0.002]  # a short queue
        until = [waiting[0][0]] if waiting else []
        until += [at - 0.002 for at in free if at - now >= 0.002]
        pause = max(0.0, min(until) - now) if until else None
        for end in select.select(open_ends, [], [], pause)[0]:
            way = ends.index(end)
            packet = os.read(end, 65536)
            now = time.monotonic()
            free[way] = max(now, free[way]) + (len(packet) / rate if rate else 0.0)
            count += 1
            heapq.heappush(waiting, (free[way] + delay, count, ends[1 - way], packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, end, packet = heapq.heappop(waiting)
            os.write(end, packet)


def _device(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH14x", name.encode(), 0x0001 | 0x1000)  # IFF_TUN, IFF_NO_PI
    fcntl.ioctl(end, 0x400454CA, request)  # TUNSETIFF
    return end


if __name__ == "__main__":
    hold_back(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]) / 1e3)
