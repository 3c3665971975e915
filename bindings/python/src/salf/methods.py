"""Fine-tuning methods by name: what the paper calls them (its section 4.1 and Appendix A.3), or a policy's word such as
"lisa". Which policy and plan stand behind a name is known to the library, and read from there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Tuple

from salf import errors
from salf._ffi import NULL, check, encoded, lib, name_of, names, new_struct, text


@dataclass(frozen=True)
class Method:
    """What stands behind a name, in the words of the library's constants.

    policy: the kind of salf.Policy to make. growth, infill, matching: options of salf.Planner, of meaning where
    planned; assignment, stream_order: too, of meaning where matching is "stream". probes: whether it decides by
    deviations, so that a salf.Probe is needed, and metric the metric of that.
    """

    name: str
    policy: str
    growth: str
    infill: str
    matching: str
    probes: bool
    metric: str
    assignment: str = "random"
    stream_order: str = "staged"

    @property
    def planned(self) -> bool:
        """Whether a plan says which data train at which depth."""
        return self.policy == "budget"


def parse_method(name: str) -> Method:
    """A method by its name; ArgumentError, a ValueError, lists the names there are."""
    found = new_struct("salf_method")
    try:
        check(lib.salf_method_find(encoded(name, "method"), found))
    except errors.NotFoundError as error:
        raise errors.ArgumentError(str(error)) from error
    return Method(
        name=name,
        policy=name_of("POLICY", found.policy),
        growth=name_of("GROWTH", found.growth),
        infill=name_of("INFILL", found.infill),
        matching=name_of("MATCH", found.matching),
        probes=bool(found.probes),
        metric=name_of("METRIC", found.metric),
        assignment=name_of("ASSIGN", found.assignment),
        stream_order=name_of("STREAM", found.stream_order),
    )


def _paper_names() -> Tuple[str, ...]:
    pointers = (lib.salf_method_name(index) for index in itertools.count())
    return tuple(text(pointer) for pointer in itertools.takewhile(lambda pointer: pointer != NULL, pointers))


#: The names, in the order of the paper's tables.
METHODS: Tuple[str, ...] = _paper_names()

#: Policies that are methods by themselves; "budget" is none, because it needs a plan.
POLICIES: Tuple[str, ...] = tuple(word for word in names("POLICY") if word != "budget")
