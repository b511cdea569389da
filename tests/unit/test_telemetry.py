"""The text of /metrics, read back by Prometheus's own parser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from broker.telemetry import ROWS_PER_TURN, Metric, Row, Telemetry

COUNTER = Metric("counter", "headrace_units", "Units")
GAUGE = Metric("gauge", "headrace_lag", "Lag")


async def scraped(telemetry: Telemetry) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples by name and labels; a series that comes twice is refused."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    names = set()
    for family in text_string_to_metric_families((await telemetry.render()).decode()):
        # A family in two places is none for Prometheus.
        assert family.name not in names
        names.add(family.name)
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in samples.setdefault(sample.name, {})
            samples[sample.name][labels] = sample.value
    return samples


async def test_counters_and_gauges_are_told_as_they_are_now() -> None:
    telemetry, value = Telemetry(), 1.5
    telemetry.counter("headrace_things", "Things", lambda: value)
    telemetry.gauge("headrace_waiting", "What waits", lambda: 2**53)
    telemetry.rpc_counter("Items/Get").started += 3
    samples = await scraped(telemetry)
    assert samples["headrace_things_total"] == {(): 1.5}
    assert samples["headrace_waiting"] == {(): 2**53}
    assert samples["headrace_rpcs_started_total"] == {(("method", "Items/Get"),): 3}
    assert samples["headrace_rpcs_failed_total"] == {(("method", "Items/Get"),): 0}
    # Those of the process are there too.
    assert samples["process_resident_memory_bytes"][()] > 0
    value = 2.5
    assert (await scraped(telemetry))["headrace_things_total"] == {(): 2.5}


# The limit of a metrics library, above which it put all into one line without labels, was 2,000.
async def test_any_number_of_series_is_told_each_with_its_labels_and_no_others() -> None:
    telemetry, count = Telemetry(), 5_000
    telemetry.series(
        (COUNTER, GAUGE), ("table", "kind"), lambda: (Row((f"t{n}", "x"), (n, n / 2)) for n in range(count))
    )
    samples = await scraped(telemetry)
    assert samples["headrace_units_total"] == {(("kind", "x"), ("table", f"t{n}")): n for n in range(count)}
    assert samples["headrace_lag"] == {(("kind", "x"), ("table", f"t{n}")): n / 2 for n in range(count)}


async def test_a_label_may_be_any_text() -> None:
    telemetry, text = Telemetry(), 'a"b\\c\nd{}=, \\n é'
    telemetry.series((GAUGE,), ("group",), lambda: [Row((text,), (1,))])
    assert (await scraped(telemetry))["headrace_lag"] == {(("group", text),): 1}


async def test_a_scrape_gives_way_to_others() -> None:
    telemetry, turns, seen = Telemetry(), 10, []

    def rows() -> Iterator[Row]:
        for n in range(turns * ROWS_PER_TURN):
            seen.append(others)
            yield Row((str(n),), (n,))

    others = 0
    telemetry.series((GAUGE,), ("n",), rows)
    scrape = asyncio.ensure_future(telemetry.render())
    while not scrape.done():
        await asyncio.sleep(0)
        others += 1
    await scrape
    # Between two turns everything else that was ready has run.
    assert len(set(seen)) == turns


async def test_scrapes_side_by_side_are_each_whole() -> None:
    telemetry = Telemetry()
    telemetry.series((GAUGE,), ("n",), lambda: (Row((str(n),), (n,)) for n in range(10 * ROWS_PER_TURN)))
    first, second = await asyncio.gather(scraped(telemetry), scraped(telemetry))
    assert len(first["headrace_lag"]) == len(second["headrace_lag"]) == 10 * ROWS_PER_TURN
