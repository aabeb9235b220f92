"""granian: importing this module registers our loop there, under the name "aioxide".

    import aioxide.integrations.granian
    from granian import Granian

    if __name__ == "__main__":
        Granian("application:app", interface="asgi", loop="aioxide").serve()

Import it where the program's main module is read, as above: workers that are spawned read that
again. granian's own command line accepts only the loops it knows, and is never changed; use
`python -m aioxide -m granian --loop asyncio` there.
"""

import asyncio

from ..event_loop import EventLoop
from ..runners import new_event_loop
from . import _host


def build_loop() -> EventLoop:
    """A new loop of ours, set as the thread's own as granian expects it."""
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


_host("granian", "granian").loops.register("aioxide")(build_loop)
