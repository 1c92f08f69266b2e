"""A runtime of `make bench-waits REAL=1`: model paths say sizes and times, as in the simulator."""

import argparse
import asyncio
import signal

from modelmesh.testing.scripted_runtime import ScriptedRuntime


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--capacity-bytes", type=int, required=True)
    parser.add_argument("--default-size-bytes", type=int, required=True)
    parser.add_argument("--loading-slots", type=int, required=True)
    chosen = parser.parse_args()

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with ScriptedRuntime(
            listen=chosen.listen,
            capacity_bytes=chosen.capacity_bytes,
            default_size_bytes=chosen.default_size_bytes,
            loading_concurrency=chosen.loading_slots,
            load_answers_size=True,
            predicts=lambda size: size,
        ):
            await stop.wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
