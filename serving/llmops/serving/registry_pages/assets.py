"""What the list of assets and the page of one asset show: champions now and before, versions, and the whole story."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from llmops.core.errors import LlmopsError, NotFoundError, UserError
from llmops.core.names import Name
from llmops.core.web import plots
from llmops.registry.aliases import Moved
from llmops.registry.promotion.history import Entry, Reign
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.rollback import Planned
from llmops.registry.records import Asset, Kind, Version
from llmops.serving.registry_pages.desk import Asked

STORY_LINES = 60
_ONE_ACT_S = 5.0
_MOST_LINES = 100_000
_MOST_SPANS = 200
_MOST_VERSIONS = 200


@dataclass(frozen=True)
class Line:
    """An asset, and the promotion of it that is under way."""

    asset: Asset
    promotion: Promotion | None

    def as_json(self) -> dict[str, Any]:
        return self.asset.as_json() | {"promotion": self.promotion.as_json() if self.promotion else None}


@dataclass(frozen=True)
class AssetList:
    lines: list[Line]
    total: int
    kind: str
    catalog: str
    kinds: list[str]
    catalogs: list[str]

    def as_json(self) -> dict[str, Any]:
        return {"assets": [line.as_json() for line in self.lines], "total": self.total}


def asset_list(asked: Asked) -> AssetList:
    """Every asset that may be known of; of one kind or catalog where the address says so.

    Raises:
        UserError: there is no such kind.
    """
    kind, catalog = asked.word("kind"), asked.word("catalog")
    if kind and kind not in set(Kind):
        raise UserError(f"`{kind}` is no kind of asset", where="kind", hint=f"there are {', '.join(Kind)}")
    known = asked.registry.list()
    under_way: dict[Name, Promotion] = {}
    for promotion in asked.promoter.states():
        if not promotion.ended:
            under_way.setdefault(promotion.name, promotion)
    chosen = [a for a in known if kind in ("", a.kind.value) and catalog in ("", a.name.catalog)]
    return AssetList(
        lines=[Line(asset, under_way.get(asset.name)) for asset in chosen],
        total=len(known),
        kind=kind,
        catalog=catalog,
        kinds=sorted({asset.kind.value for asset in known}),
        catalogs=sorted({asset.name.catalog for asset in known}),
    )


@dataclass(frozen=True)
class Told:
    """Lines of the story that were one act: of one person, about one version, within seconds; newest first."""

    entries: list[Entry]

    @property
    def last(self) -> Entry:
        return self.entries[0]


@dataclass(frozen=True)
class AssetPage:
    """One asset. `rollback` is what one would do now, or why there is none."""

    asset: Asset
    versions: list[Version]
    states: dict[int, Promotion]
    champion: Reign | None
    reigns: list[Reign]
    story: list[Entry]
    story_lines: int
    rollback: Planned | LlmopsError
    done: bool

    @property
    def can_roll_back(self) -> bool:
        return isinstance(self.rollback, Planned)

    @property
    def acts(self) -> list[Told]:
        """The story with what belongs together taken together."""
        acts: list[Told] = []
        for entry in self.story:
            if not acts or not _one_act(acts[-1].entries[-1], entry):
                acts.append(Told([]))
            acts[-1].entries.append(entry)
        return acts

    @property
    def plot(self) -> Markup | None:
        """Who was champion when; nothing where nobody ever was."""
        now = datetime.now(UTC)
        spans = [_span(reign, now) for reign in self.reigns[:_MOST_SPANS]][::-1]
        lanes = sorted({span.row for span in spans}, key=lambda row: int(row[1:]), reverse=True)
        spans.sort(key=lambda span: lanes.index(span.row))
        return plots.span_plot("Which version was champion when", spans, _day) if spans else None

    def as_json(self) -> dict[str, Any]:
        return {
            **self.asset.as_json(),
            "champion": self.champion.as_json() if self.champion else None,
            "reigns": [reign.as_json() for reign in self.reigns],
            "version_list": [
                version.as_json() | {"state": self.states[version.version].state.value}
                if version.version in self.states
                else version.as_json() | {"state": None}
                for version in self.versions
            ],
            "story": [entry.as_json() for entry in self.story],
            "story_lines": self.story_lines,
            "rollback": self.rollback.as_json() if isinstance(self.rollback, Planned) else None,
        }


def asset_page(asked: Asked) -> AssetPage:
    """Everything about one asset.

    Raises:
        NotFoundError: there is none that may be known of.
    """
    registry, promoter = asked.registry, asked.promoter
    asset = registry.show(asked.params["name"])
    story = promoter.history(asset.name)
    shown = asked.number("lines", STORY_LINES, _MOST_LINES)
    return AssetPage(
        asset=asset,
        versions=registry.versions(asset.name)[:_MOST_VERSIONS],
        states={promotion.version: promotion for promotion in promoter.states(asset.name)},
        champion=promoter.champion_at(asset.name, datetime.now(UTC)),
        reigns=_reigns(registry.history(asset.name, "champion")),
        story=story[:shown],
        story_lines=len(story),
        rollback=_rollback(asked, asset.name),
        done=asked.word("done") == "rollback",
    )


@dataclass(frozen=True)
class RollbackPage:
    """A rollback that is about to be done: what it would do, and the reason that was given."""

    planned: Planned
    reason: str

    def as_json(self) -> dict[str, Any]:
        return self.planned.as_json() | {"reason": self.reason}


def rollback_page(asked: Asked) -> RollbackPage:
    """Look at a rollback before it is done.

    Raises:
        UserError: no reason was given, or there is nothing to go back to.
    """
    planned = asked.promoter.plan_rollback(asked.params["name"])
    reason = asked.query.get("reason", "").strip()
    if not reason:
        raise UserError("a rollback needs a reason", where=asked.params["name"], hint="say what went wrong")
    return RollbackPage(planned, reason[:2000])


def _one_act(later: Entry, earlier: Entry) -> bool:
    near = abs((later.at - earlier.at).total_seconds()) < _ONE_ACT_S
    return near and (later.by, later.version) == (earlier.by, earlier.version)


def _rollback(asked: Asked, name: Name) -> Planned | LlmopsError:
    try:
        return asked.promoter.plan_rollback(name)
    except (NotFoundError, UserError) as error:
        return error


def _reigns(moves: list[Moved]) -> list[Reign]:
    """One champion after the other, newest first; evidence stays with the story."""
    found: list[Reign] = []
    until: datetime | None = None
    for move in moves:
        if move.version is not None:
            found.append(Reign(move.name, move.version, move.moved_at, until, move.moved_by, ()))
        until = move.moved_at
    return found


def _span(reign: Reign, now: datetime) -> plots.Span:
    ends = f"{reign.until:%Y-%m-%d %H:%M}" if reign.until else "now"
    told = f"Version {reign.version}: {reign.since:%Y-%m-%d %H:%M} to {ends} UTC"
    end = (reign.until or now).timestamp()
    return plots.Span(
        f"v{reign.version}", reign.since.timestamp(), max(end, reign.since.timestamp()), told,
        f"../versions/{reign.name}/{reign.version}", now=reign.until is None,
    )  # fmt: skip


def _day(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d %H:%M")
