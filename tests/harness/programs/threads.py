"""A workload: an asyncio server beside threads that count, sleep on locks and time-outs, and read from pipes.

usage: threads.py PORT. Each line is answered by one with "<thread counters> <timer ticks> <lines of this connection>".
"""

import asyncio
import os
import queue
import sys
import threading
import time

THREADS = 4
counts = [0] * THREADS
ticks = 0
lock = threading.Condition()


def count(number):
    while True:
        with lock:
            counts[number] += 1
            lock.wait(0.002)
        sum(range(500))


def echo(inbox, outbox):
    while True:
        outbox.put(inbox.get() * 2)


def through_pipe(end):
    with os.fdopen(end, "rb", 0) as pipe:
        while pipe.read(1):
            with lock:
                lock.notify_all()


async def tick(write_end):
    global ticks
    while True:
        await asyncio.sleep(0.005)
        ticks += 1
        os.write(write_end, b"x")


async def main(port):
    read_end, write_end = os.pipe()
    inbox, outbox = queue.Queue(), queue.Queue()
    for number in range(THREADS):
        threading.Thread(target=count, args=(number,), daemon=True).start()
    threading.Thread(target=echo, args=(inbox, outbox), daemon=True).start()
    threading.Thread(target=through_pipe, args=(read_end,), daemon=True).start()
    ticking = asyncio.create_task(tick(write_end))

    async def serve(reader, writer):
        lines = 0
        while await reader.readline():
            lines += 1
            inbox.put(lines)
            twice = await asyncio.to_thread(outbox.get, True, 5)
            assert twice == 2 * lines
            writer.write(b"%s %d %d\n" % (",".join(map(str, counts)).encode(), ticks, lines))
        writer.close()

    server = await asyncio.start_server(serve, "", port)
    async with server:
        await ticking


if __name__ == "__main__":
    time.tzset()
    asyncio.run(main(int(sys.argv[1])))
