"""The switches of the simulator over HTTP, for who rehearses: /simulator/… beside the API.

    GET    /simulator                     the paths below
    GET    /simulator/faults              rules in force; POST adds one or a list; DELETE: none
    GET    /simulator/settings            POST {name: value} changes some
    GET    /simulator/capacity            POST {type: [region, …]} changes some
    GET    /simulator/journal             every request so far; ?method=POST&path=launch narrows
    GET    /simulator/instances           the truth about every instance, gone ones too
    POST   /simulator/machines/NAME/ACT   cut heal reset halt boot reboot, or gpu: {field: value}

A rule is a text as on the command line or an object with the fields of `Fault`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs

from .faults import Fault, parse_fault
from .machine import MachineError

if TYPE_CHECKING:
    from .server import Simulator

ACTS = ("cut", "heal", "reset", "halt", "boot", "reboot")


def control(
    simulator: Simulator, method: str, parts: SplitResult, body: Any
) -> tuple[int, dict[str, Any] | list[Any]]:
    """Carry out one request to /simulator and return (status, answer)."""
    place = parts.path.removeprefix("/simulator").strip("/")
    try:
        if place.startswith("machines/") and method == "POST":
            return 200, _act(simulator, place, body)
        switch = SWITCHES.get(place)
        if switch is None:
            return (404 if place else 200), {"paths": __doc__.splitlines()[2:-2]}
        return 200, switch(simulator, method, body, parse_qs(parts.query))
    except (ValueError, TypeError, KeyError, MachineError) as error:
        return 400, {"error": f"{type(error).__name__}: {error}"}


def _faults(simulator: Simulator, method: str, body: Any, _query: Any) -> list[Any]:
    if method == "DELETE":
        simulator.faults.clear()
    elif method == "POST":
        rules = body if isinstance(body, list) else [body]
        simulator.faults.add(*(_fault(rule) for rule in rules))
    return simulator.faults.listed()


def _fault(rule: Any) -> Fault:
    return parse_fault(rule) if isinstance(rule, str) else Fault(**rule)


def _settings(simulator: Simulator, method: str, body: Any, _query: Any) -> dict[str, Any]:
    if method == "POST":
        simulator.change(**body)
    return dataclasses.asdict(simulator.settings)


def _capacity(simulator: Simulator, method: str, body: Any, _query: Any) -> dict[str, Any]:
    if method == "POST":
        changes = {kind: tuple(regions) for kind, regions in body.items()}
        simulator.account.capacity |= changes
    return {kind: list(regions) for kind, regions in simulator.account.capacity.items()}


def _journal(simulator: Simulator, _method: str, _body: Any, query: Any) -> list[Any]:
    words = {name: query[name][0] for name in ("method", "path") if name in query}
    return [dataclasses.asdict(entry) for entry in simulator.journal.entries(**words)]


def _instances(simulator: Simulator, _method: str, _body: Any, _query: Any) -> list[Any]:
    now = simulator.clock.now()
    with simulator.account.lock:
        return [
            {
                "id": instance.id,
                "name": instance.name,
                "type": instance.type.name,
                "region": instance.region,
                "status": instance.status(now),
                "rented": instance.terminate_s > now,
                "usd": round(instance.usd(now), 4),
                "address": instance.address,
                "ssh_port": simulator.ssh_port,
                "has_machine": instance.id in simulator.machines.by_id,
                "machine_error": instance.machine_error,
            }
            for instance in simulator.account.instances
        ]


def _act(simulator: Simulator, place: str, body: Any) -> dict[str, Any]:
    _, name, act = place.split("/")
    machine = simulator.machine(name)
    if act == "gpu":
        machine.set_gpu(**body)
    elif act in ACTS:
        getattr(machine, act)(**(body or {}))
    else:
        raise ValueError(f"{act!r}: choose from {', '.join(ACTS)}, gpu")
    return {"machine": name, "did": act}


SWITCHES: dict[str, Callable[..., Any]] = {
    "faults": _faults,
    "settings": _settings,
    "capacity": _capacity,
    "journal": _journal,
    "instances": _instances,
}
