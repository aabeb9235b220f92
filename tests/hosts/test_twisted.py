"""Twisted: its asyncio reactor on our loop, with connections, threads, processes and signals.

Run by pytest on asyncio and on aioxide, in programs of their own.  Twisted watches for signals by
a wake-up descriptor that it sets before the loop runs.
"""

from starting import PYTHON, factory, needs, request, run, started

pytestmark = needs("twisted")

REACTOR = """
import asyncio
import os
import sys
import {module}
from twisted.internet import asyncioreactor

asyncioreactor.install({module}.{name}())

from twisted.internet import defer, endpoints, protocol, reactor, threads, utils
"""

PROGRAM = """
class Shout(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data.upper())

class Ask(protocol.Protocol):
    def __init__(self):
        self.received = b""
        self.done = defer.Deferred()

    def connectionMade(self):
        self.transport.write(b"x" * 1_000_000)

    def dataReceived(self, data):
        self.received += data
        if len(self.received) == 1_000_000:
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.done.callback(self.received == b"X" * 1_000_000)

async def main():
    shouting = protocol.Factory.forProtocol(Shout)
    serving = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await serving.listen(shouting)
    calling = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    ask = await calling.connect(protocol.Factory.forProtocol(Ask))
    print("all came back:", await ask.done)
    await port.stopListening()
    print(await threads.deferToThread(sum, [1, 2, 3]))
    for number in range(3):
        code = "import sys; print('child', sys.argv[1])"
        print(await utils.getProcessOutput(sys.executable, ["-c", code, str(number)]))
    later = defer.Deferred()
    reactor.callLater(0.01, later.callback, "later")
    print(await later)
    print(await defer.Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01, "a future"))))
    print(type(asyncio.get_running_loop()).__module__.split(".")[0])

def report(failure):
    failure.printTraceback()

def start():
    done = defer.ensureDeferred(main()).addErrback(report)
    done.addBoth(lambda result: reactor.stop())

reactor.callWhenRunning(start)
reactor.run()
print("stopped")
"""

ANSWERS = """\
all came back: True
6
b'child 0\\n'
b'child 1\\n'
b'child 2\\n'
later
a future
{loop}
stopped
"""


def test_a_program_of_twisted(namespace, tmp_path):
    module, name = factory(namespace).split(":")
    (tmp_path / "program.py").write_text(REACTOR.format(module=module, name=name) + PROGRAM)
    code, output = run([*PYTHON, "program.py"], tmp_path)
    assert (code, output) == (0, ANSWERS.format(loop=namespace.__name__))


SERVER = """
from twisted.web import resource, server

class Hello(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        return type(asyncio.get_running_loop()).__module__.split(".")[0].encode()

port = reactor.listenTCP(0, server.Site(Hello()), interface="127.0.0.1")
print("listening on", port.getHost().port)
reactor.run()
print("stopped")
"""


def test_a_web_server_of_twisted(namespace, tmp_path):
    module, name = factory(namespace).split(":")
    (tmp_path / "program.py").write_text(REACTOR.format(module=module, name=name) + SERVER)
    with started([*PYTHON, "program.py"], tmp_path) as program:
        port = int(program.wait_for(r"listening on (\d+)")[1])
        assert request(port, "GET", "/") == (200, namespace.__name__.encode())
        # Twisted's own handler of the signal stops the reactor.
        program.stop()
        assert program.output.endswith("stopped\n")
        assert "Traceback" not in program.output
