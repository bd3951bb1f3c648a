"""Which stages a version must pass before users meet it: gates, approving groups, canary steps.

A plain value. Where a policy is kept, and which one an asset has, is `policies`' matter.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Gate = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_.-]*$")]
Group = Annotated[str, Field(min_length=1, max_length=128)]
Weight = Annotated[float, Field(gt=0, lt=1)]


class Policy(BaseModel):
    """What a promotion asks for. A stage whose field is empty is skipped; the rest come in the order of the fields.

    A promotion walks by the policy it was started with; a new policy holds for those started after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: tuple[Gate, ...] = Field(("validation",), min_length=1, description="Gates a version passes by itself")
    comparison: tuple[Gate, ...] = Field(
        ("comparison",), description="Gates against the champion, or at the first deployment against a heuristic"
    )
    approvals: tuple[Group, ...] = Field((), description="Groups of which one member each must approve")
    readiness: tuple[Gate, ...] = Field((), description="Gates a deployed version passes before it gets traffic")
    shadow: tuple[Gate, ...] = Field((), description="Gates on copied live traffic")
    canary: tuple[Weight, ...] = Field((), description="Shares of live traffic, rising: [0.01, 0.05, 0.25]")
    canary_gates: tuple[Gate, ...] = Field(("canary",), min_length=1, description="Gates at each share")

    self_approval: bool = Field(False, description="May the version's creator or the promotion's starter approve it?")
    distinct_approvers: bool = Field(True, description="Must each group be spoken for by another person?")
    approval_valid_s: float | None = Field(
        14 * 86400.0, gt=0, description="Seconds after which an approval that led nowhere counts no more; null: never"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.canary) != sorted(set(self.canary)):
            raise ValueError("the shares of a canary rise from step to step")
        if len(set(self.approvals)) != len(self.approvals):
            raise ValueError("a group approves once; name each group once")
        gates = [*self.validation, *self.comparison, *self.readiness, *self.shadow]
        gates += self.canary_gates if self.canary else ()
        if len(set(gates)) != len(gates):
            raise ValueError("a gate belongs to one stage; name each gate once")
        return self

    @property
    def comparative(self) -> frozenset[str]:
        """The gates whose evidence must speak of the champion that is champion now."""
        return frozenset({*self.comparison, *self.shadow, *self.canary_gates})

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
