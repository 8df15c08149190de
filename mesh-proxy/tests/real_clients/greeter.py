"""Calls a greeter in each of gRPC's four shapes, with grpcio and no generated code.

Argument 1: host:port of a greeter; 2: host:port behind which nobody answers.
"""

import sys

import grpc


def text(field, value):
    """A string field shorter than 128 bytes."""
    data = value.encode()
    return bytes([field << 3 | 2, len(data)]) + data


def name(value):
    return text(1, value)


def many(value, count, interval_ms):
    """A HelloManyRequest; both numbers below 128."""
    return text(1, value) + bytes([2 << 3, count, 3 << 3, interval_ms])


def reply(message):
    return text(1, message) + text(2, "one")


def equal(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: {found!r}, not {expected!r}")


def refused(what, code, call):
    try:
        found = call()
    except grpc.RpcError as error:
        equal(what, error.code(), code)
    else:
        sys.exit(f"{what}: answered {found!r}")


def main(greeter, silent):
    raw = {"request_serializer": bytes, "response_deserializer": bytes}
    with grpc.insecure_channel(greeter) as channel:
        say = channel.unary_unary("/greeter.Greeter/SayHello", **raw)
        for _ in range(100):
            equal("unary", say(name("ann"), timeout=10), reply("hello, ann"))
        refused("empty name", grpc.StatusCode.INVALID_ARGUMENT, lambda: say(name(""), timeout=10))

        stream = channel.unary_stream("/greeter.Greeter/SayHelloMany", **raw)
        replies = list(stream(many("ann", 100, 0), timeout=10))
        equal("server streaming", replies, [reply("hello, ann")] * 100)

        collect = channel.stream_unary("/greeter.Greeter/SayHelloToAll", **raw)
        found = collect(iter([name("ann"), name("bob")]), timeout=10)
        equal("client streaming", found, reply("hello, ann and bob"))

        chat = channel.stream_stream("/greeter.Greeter/Chat", **raw)
        words = [f"word {number}" for number in range(50)]
        said = list(chat(iter(map(name, words)), timeout=10))
        equal("both streaming", said, [reply(f"hello, {word}") for word in words])

        # 100 replies, 100 ms apart, in half a second.
        late = stream(many("ann", 100, 100), timeout=0.5)
        refused("stream past its deadline", grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(late))

    with grpc.insecure_channel(silent) as channel:
        say = channel.unary_unary("/greeter.Greeter/SayHello", **raw)
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        refused("no answer", code, lambda: say(name("ann"), timeout=0.5))
    print("all as it should be")


main(*sys.argv[1:])
