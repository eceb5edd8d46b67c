"""The same load as load.rs, in Python. Arguments: cycles, processor, cycles before the clock starts, connections to one
destination before the next has its turn, destinations, cycles in a batch."""
import json, os, socket, sys, time

CYCLES, CPU, WARM_UP, RUN, DESTINATIONS, BATCH = map(int, sys.argv[1:])


def connect(port, index):
    near = socket.socket()
    near.connect(("127.0.1.%d" % (index // RUN % DESTINATIONS + 1), port))
    return near


def cycle(listener, port, index):
    near = connect(port, index)
    far, _ = listener.accept()
    near.close()
    far.close()


def main():
    os.sched_setaffinity(0, [CPU])
    listener = socket.create_server(("0.0.0.0", 0))
    port = listener.getsockname()[1]
    for index in range(WARM_UP):
        cycle(listener, port, index)
    cpu_ns, wall_ns, clock_ns = time.process_time_ns(), time.monotonic_ns(), []
    for index in range(WARM_UP, WARM_UP + CYCLES):
        if (index - WARM_UP) % BATCH == 0:
            clock_ns.append(time.process_time_ns())
        cycle(listener, port, index)
    print(json.dumps({
        "pid": os.getpid(),
        "cycles": CYCLES,
        "cpu_ns": time.process_time_ns() - cpu_ns,
        "wall_ns": time.monotonic_ns() - wall_ns,
        "batches_ns": [end - begin for begin, end in zip(clock_ns, clock_ns[1:])],
    }))


main()
