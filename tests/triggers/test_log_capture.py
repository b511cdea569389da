"""Turning what a worker writes into log lines, however the bytes arrive."""

from __future__ import annotations

import asyncio
import os
from random import Random

import pytest

from headrace.triggers.log_capture import LINE_SIZE_BYTES_MAX, FrameParser, LineParser, LogLine, LogParser, LogPipe


def frame(text: bytes, time_us: int = 7, level: int = 0x0F) -> bytes:
    return bytes([0xA5, 0x5A, 0x00, level]) + len(text).to_bytes(4, "big") + time_us.to_bytes(8, "big") + text


def pieces(data: bytes, random: Random) -> list[bytes]:
    """The same bytes, cut at random places."""
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def texts(parser: LogParser, *data: bytes) -> list[str]:
    return [line.text for piece in data for line in parser.feed(piece, 1)]


def test_output_becomes_a_line_for_each_end_of_line() -> None:
    assert texts(LineParser(), b"one\n\ntwo\r\nthr", b"ee\n") == ["one", "", "two", "three"]


def test_a_line_without_an_end_is_given_when_asked_for() -> None:
    parser = LineParser()
    assert texts(parser, b"no end") == []
    assert parser.flush(5) == [LogLine(time_us=5, text="no end")]
    assert parser.flush(6) == []
    assert texts(parser, b"next\n") == ["next"]


def test_a_long_line_is_cut_and_its_rest_does_not_stay_in_memory() -> None:
    parser = LineParser()
    for _ in range(100):
        assert parser.feed(b"x" * LINE_SIZE_BYTES_MAX, 1) == []
    assert len(parser._partial) == LINE_SIZE_BYTES_MAX
    assert texts(parser, b"\nshort\n") == ["x" * LINE_SIZE_BYTES_MAX, "short"]


def test_a_cut_inside_a_character_and_broken_text_leave_valid_text_within_the_limit() -> None:
    (euros, garbage) = texts(
        LineParser(), "€".encode() * LINE_SIZE_BYTES_MAX + b"\n" + b"\xff" * LINE_SIZE_BYTES_MAX + b"\n"
    )
    assert len(euros.encode()) <= LINE_SIZE_BYTES_MAX
    assert set(garbage) == {"\N{REPLACEMENT CHARACTER}"}
    assert len(garbage.encode()) <= LINE_SIZE_BYTES_MAX


# Header and text of a frame can arrive in separate reads: a parser without a memory garbled them.
def test_frames_are_put_together_wherever_they_are_cut(rng: Random) -> None:
    frames = [frame(f"record {number}\nwith a second line\n".encode(), number) for number in range(5)]
    for _ in range(200):
        parser = FrameParser()
        lines = [line for piece in pieces(b"".join(frames), rng) for line in parser.feed(piece, 99)]
        assert lines == [LogLine(time_us=n, text=f"record {n}\nwith a second line") for n in range(5)]


def test_a_long_frame_is_cut_and_the_next_one_is_whole() -> None:
    parser = FrameParser()
    data = frame(b"y" * 1_000_000) + frame(b"after")
    got = []
    for start in range(0, len(data), 10_000):
        got += texts(parser, data[start : start + 10_000])
        assert len(parser._buffer) <= LINE_SIZE_BYTES_MAX + 20_000
    assert got == ["y" * LINE_SIZE_BYTES_MAX, "after"]


# A function may write to the telemetry pipe itself; what the runtime client writes must not be lost for it.
def test_bytes_that_are_no_frame_are_skipped(rng: Random) -> None:
    for _ in range(200):
        parser = FrameParser()
        noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 60))).replace(b"\xa5", b"?")
        assert texts(parser, *pieces(frame(b"before") + noise + frame(b"after") + frame(b"last"), rng)) == [
            "before",
            "after",
            "last",
        ]


@pytest.mark.parametrize("size", [0, 1, 60_000])
async def test_draining_a_pipe_takes_all_that_was_written_before(size: int) -> None:
    lines: list[LogLine] = []
    pipe = LogPipe(LineParser(), lines.append, lambda: 1)
    try:
        os.write(pipe.write_fd, b"z" * size)
        pipe.drain()
        assert sum(len(line.text) for line in lines) == min(size, LINE_SIZE_BYTES_MAX)
    finally:
        pipe.close()


async def test_a_pipe_whose_writers_are_gone_is_at_rest() -> None:
    lines: list[LogLine] = []
    reads = 0

    def now_us() -> int:
        nonlocal reads
        reads += 1
        return reads

    pipe = LogPipe(LineParser(), lines.append, now_us)
    os.write(pipe.write_fd, b"last words\n")
    pipe.close_write_end()
    # The loop turns a few times: it reads the line and the end, and then finds nothing more to do.
    for _ in range(20):
        await asyncio.sleep(0)
    assert [line.text for line in lines] == ["last words"]
    assert reads == 1
    pipe.drain()
    pipe.close()
    pipe.close()
