"""Captions from a server: how many a second, and what of the client's CPU they take.

    python -m benchmarks.captions [--rows 4000] [--concurrency 200] [--answers-after 0.1] [--images FOLDER]

A server in a process of its own answers every request after the given time. Timed are the operator's own steps (images
read, checked and sent, answers kept on disk) on images of 500 x 375 px, or on the JPEGs of a folder. With one core
free for the server the client needs at most one: its share of a core is printed. Then all captions are taken from the
store, which asks for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)  # px, as in the seed
BODY = json.dumps({"choices": [{"message": {"content": "a red dress on a hanger"}, "finish_reason": "stop"}]})
SERVER = """
import asyncio, sys
seconds, body = float(sys.argv[1]), sys.argv[2].encode()
answer = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body
most = at_once = 0

async def serve(reader, writer):
    global most, at_once
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            if head.startswith(b"POST"):
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0]))
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(seconds)
                at_once -= 1
            writer.write(answer if b"/most" not in head else answer.replace(body, b"%*d" % (len(body), most)))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="captions to write (default: 4000)")
    parser.add_argument("--concurrency", type=int, default=200, help="requests at a time (default: 200)")
    parser.add_argument("--answers-after", type=float, default=0.1, metavar="SECONDS", help="(default: 0.1)")
    parser.add_argument("--images", type=Path, help="folder of JPEGs to send (default: drawn ones)")
    arguments = parser.parse_args()
    command = [sys.executable, "-c", SERVER, str(arguments.answers_after), BODY]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        os.environ["SCORE_STORE"] = f"{folder}/scores"  # an empty one
        assert server.stdout
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        paths = sorted(map(str, arguments.images.rglob("*.jpg"))) if arguments.images else drawn(Path(folder))
        try:
            measure(endpoint, paths, arguments.rows, arguments.concurrency)
        finally:
            server.terminate()


def drawn(folder: Path) -> list[str]:
    """Sixty-four JPEGs that compress as photographs do."""
    paths = []
    for number in range(64):
        coarse = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
        paths.append(str(folder / f"{number}.jpg"))
    return paths


def measure(endpoint: str, paths: list[str], rows: int, concurrency: int) -> None:
    """Print captions a second, the client's CPU time, and the most requests that the server saw at once."""
    import httpx

    from solution.operators.common.chat_server import ChatServer
    from solution.operators.common.server_captioner import ServerCaptioner

    server = ChatServer(endpoint, "tiny", None, concurrency, 60.0, 2)
    chosen = [paths[number % len(paths)] for number in range(rows)]
    keys = [str(number) for number in range(rows)]
    for kind in ("asked", "kept"):
        captioner = ServerCaptioner(server, "", 30, 0.0, 0, 1024)
        start, cpu = time.monotonic(), time.process_time()
        captions, failures = captioner.caption(chosen, keys)
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        assert all(captions), next(filter(None, failures))
        print(
            f"{kind}: {rows / seconds:.0f} captions/s, {1000 * cpu / rows:.2f} ms of CPU each, "
            f"{cpu / seconds:.2f} of a core"
        )
    most = int(httpx.get(endpoint + "/most", trust_env=False).text)
    print(f"at most {most} requests at once")


if __name__ == "__main__":
    main()
