"""A long and bad cable: carries Ethernet frames between two TAPs, late, and loses, doubles and overtakes some.

usage: far.py TAP TAP SECONDS SHARE SEED. Each way takes SECONDS; SHARE of the frames are lost, as many come twice, and
as many come up to twice as late, behind later ones. Says "ready" when both TAPs are there; ends with its standard
input, and says then how many frames it has carried, lost, doubled and delayed.
"""

import errno
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
MAX_FRAME_BYTES = 1 << 16
AT_ONCE = 64


def open_tap(name):
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def put(end, frame):
    """To whoever hears it: nobody does at an end that is not up yet (K: drivers/net/tun.c, tun_get_user)."""
    try:
        os.write(end, frame)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class Cable:
    def __init__(self, ends, seconds, share, seed):
        self.other_end = {ends[0]: ends[1], ends[1]: ends[0]}
        self.seconds, self.share, self.random = seconds, share, random.Random(seed)
        self.on_the_way = []  # (when it is there, its number, the end it goes to, the frame)
        self.carried = self.lost = self.doubled = self.delayed = 0

    def take(self, end):
        for _ in range(AT_ONCE):
            try:
                frame = os.read(end, MAX_FRAME_BYTES)
            except BlockingIOError:
                return
            if self._happens():
                self.lost += 1
                continue
            self._send(self.other_end[end], frame)
            if self._happens():
                self.doubled += 1
                self._send(self.other_end[end], frame)

    def _send(self, end, frame):
        number, late = self.carried, self._happens()
        there = time.monotonic() + self.seconds * (1 + self.random.random() * late)
        self.carried, self.delayed = number + 1, self.delayed + late
        heapq.heappush(self.on_the_way, (there, number, end, frame))

    def _happens(self):
        return self.random.random() < self.share

    def deliver(self):
        """What is due; gives the milliseconds until more is, None: nothing is on its way."""
        while self.on_the_way:
            left = self.on_the_way[0][0] - time.monotonic()
            if left > 0:
                return left * 1000
            _, _, end, frame = heapq.heappop(self.on_the_way)
            put(end, frame)
        return None


def main(first, second, seconds, share, seed):
    ends = [open_tap(first), open_tap(second)]
    cable = Cable(ends, float(seconds), float(share), int(seed))
    poll = select.poll()
    for descriptor in (0, *ends):
        poll.register(descriptor, select.POLLIN)
    print("ready", flush=True)
    while True:
        for descriptor, _ in poll.poll(cable.deliver()):
            if descriptor == 0:
                print(cable.carried, cable.lost, cable.doubled, cable.delayed)
                return
            cable.take(descriptor)


if __name__ == "__main__":
    main(*sys.argv[1:])
