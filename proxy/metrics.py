"""The proxy's Prometheus metrics, read from the plane when they are asked for: nothing is counted twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.io.plane import Plane

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PlaneCollector(Collector):
    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        yield from self._flows()
        yield from self._totals()
        yield _gauge("midstream_proxy_outbound_migrations", "Migrations away from this pod.", len(self._plane.outbound))
        yield _gauge("midstream_proxy_inbound_migrations", "Migrations to this pod.", len(self._plane.inbound))

    def _flows(self) -> Iterator[Metric]:
        flows = [flow for _, flow in self._plane.flows()]
        states = GaugeMetricFamily("midstream_proxy_flows", "Flows by side and state.", labels=["side", "state"])
        for (side, state), number in Counter((flow.side, flow.state.value) for flow in flows).items():
            states.add_metric([side, state], number)
        yield states
        held = sum(flow.held_bytes for flow in flows if flow.state.value == "held")
        yield _gauge("midstream_proxy_held_bytes", "Bytes that peers have sent to flows held now.", held)
        live = [flow for flow in flows if not flow.is_over]
        totals = self._plane.context.totals
        to_app = totals.to_app_bytes + sum(flow.to_app_bytes for flow in live)
        to_peer = totals.to_peer_bytes + sum(flow.to_peer_bytes for flow in live)
        relayed = CounterMetricFamily("midstream_proxy_relayed_bytes", "Bytes relayed.", labels=["direction"])
        relayed.add_metric(["to_app"], to_app)
        relayed.add_metric(["to_peer"], to_peer)
        yield relayed

    def _totals(self) -> Iterator[Metric]:
        totals = self._plane.context.totals
        yield _counter("midstream_proxy_flows_adopted", "Flows adopted from a workload.", totals.flows_adopted)
        yield _counter("midstream_proxy_flows_accepted", "Flows opened during or after a hold.", totals.flows_accepted)
        links = Counter(link.state.value for link in self._plane.context.links)
        states = GaugeMetricFamily("midstream_proxy_links", "Links by state.", labels=["state"])
        for state, number in links.items():
            states.add_metric([state], number)
        yield states
        yield _counter("midstream_proxy_links_lent", "Connections that a link gave up for a while.", totals.links_lent)
        yield _counter("midstream_proxy_legs_built", "App legs built with TCP_REPAIR.", totals.legs_built)
        yield _labelled("midstream_proxy_flows_ended", "Flows that have ended, by how.", "how", totals.flows_ended)
        yield _labelled("midstream_proxy_links_refused", "Links refused, by reason.", "reason", totals.links_refused)
        yield _labelled("midstream_proxy_link_breaks", "Breaks of links, and their ends.", "what", totals.links_broken)
        seconds = {
            "adopt": totals.adopt_seconds,
            "build": totals.build_seconds,
            "resume": totals.resume_seconds,
            "repoint": totals.repoint_seconds,
        }
        yield _labelled("midstream_proxy_step_seconds", "Time spent in the steps of migrations.", "step", seconds)


def registry(plane: Plane) -> CollectorRegistry:
    made = CollectorRegistry(auto_describe=False)
    made.register(PlaneCollector(plane))
    return made


def text(made: CollectorRegistry) -> bytes:
    return generate_latest(made)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _labelled(name: str, documentation: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
