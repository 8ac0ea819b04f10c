"""What is looked at before anything is touched: the plan of a migration, with whatever stands in its way."""

from __future__ import annotations

import importlib.metadata
from itertools import chain
from typing import Any

import msgspec

from checkpoint.api import Problem
from controller.clients import gather_named
from controller.core.choose import choose, usable
from controller.core.files import what_does_not_arrive
from controller.core.hold import judged
from controller.core.machines import too_few_capabilities, unlike, unlike_links, unlike_versions
from controller.core.plan import (
    Plan,
    PodFacts,
    make_plan,
    spare_links,
    too_few_descriptors,
    too_little_room_for_images,
)
from controller.core.predict import Rates
from controller.journal import Intent
from controller.lab.pod import Pod
from controller.parties import Parties


async def preflight(parties: Parties, intent: Intent, rates: Rates) -> Plan:
    """`rates`: what moves have taken here. Raises MidstreamError where one of the four does not answer.

    Also warms the four connections, so that no call inside the freeze has to open one.
    """
    facts = await gather_named(
        inspection=parties.source_agent.inspect(intent.workload, intent.files.named),
        room=parties.destination_agent.room(),
        source_proxy=parties.source_proxy.health(),
        destination_proxy=parties.destination_proxy.health(),
        listeners=parties.destination_proxy.listeners(),
        ours=parties.source_agent.health(),
        theirs=parties.destination_agent.health(),
    )
    source, destination = facts_of(parties.source), facts_of(parties.destination)
    allow = intent.allow_loss
    plan = make_plan(source, destination, facts["inspection"], facts["room"], facts["listeners"], allow_loss=allow)
    apart = _of_other_versions(source.name, destination.name, facts)
    features_found = facts["inspection"].workload.cpu_features or facts["ours"].cpu_features
    apart += unlike(source.name, facts["ours"], destination.name, facts["theirs"], features_found)
    apart += too_few_capabilities(destination.name, facts["inspection"].capabilities, facts["theirs"])
    proxies = ((source.name, facts["source_proxy"]), (destination.name, facts["destination_proxy"]))
    apart += unlike_links(source.name, facts["source_proxy"], destination.name, facts["destination_proxy"])
    features = usable(facts["ours"].memory, facts["theirs"].memory)
    direct = intent.transfer.way == "direct"
    room = facts["room"].memory_bytes
    memory, unavailable = choose(
        intent.memory, plan.size, rates, features, room, direct=direct,
        limit_bytes_per_second=intent.transfer.bytes_per_second, no_post_copy=facts["inspection"].no_post_copy,
    )  # fmt: skip
    links = spare_links(memory.way)
    full = [too_few_descriptors(pod, plan.connections, proxy.spare_descriptors, links) for pod, proxy in proxies]
    away = what_does_not_arrive(facts["inspection"].belongings, facts["room"], destination.name, intent.files)
    cramped = too_little_room_for_images(destination.name, facts["inspection"], facts["room"], memory, direct=direct)
    problems = [*apart, *away, *unavailable, *plan.problems, *cramped, *chain.from_iterable(full)]
    plan = msgspec.structs.replace(plan, memory=memory, problems=problems, cpu_features=features_found)
    return judged(plan, intent.transfer, intent.max_hold_seconds, direct=direct)


def _of_other_versions(source: str, destination: str, facts: dict[str, Any]) -> list[Problem]:
    parts = {
        f"agent of pod {source}": facts["ours"].version,
        f"proxy of pod {source}": facts["source_proxy"].version,
        f"agent of pod {destination}": facts["theirs"].version,
        f"proxy of pod {destination}": facts["destination_proxy"].version,
    }
    return unlike_versions(importlib.metadata.version("midstream"), parts)


def facts_of(pod: Pod) -> PodFacts:
    return PodFacts(pod.name, pod.address, pod.address6)
