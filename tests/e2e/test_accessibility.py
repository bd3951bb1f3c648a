"""axe finds nothing, in light and dark, wide and narrow, with everything open."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from tests.e2e.conftest import open_reader
from tests.support.serving import Running
from tests.support.upstream import Reply, Upstream

WIDE, NARROW = (1280, 820), (375, 740)
RICH = """## Deleting

Deleted documents leave the index [1]. See `llmops ingest`.

| what | where |
|---|---|
| broken files | quarantine [2] |

```
llmops ingest docs/
```

> A quote, and [a link](https://example.org).
"""


def violations(page: Page) -> list[str]:
    return [
        f"{found['id']}: {node['target']} {node.get('failureSummary')}"
        for found in Axe().run(page).response["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_no_violation_anywhere(
    browser: Browser, server: Running, upstream: Upstream, scheme: str, size: tuple[int, int]
) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        bypass_csp=True,  # axe brings a script of its own
    )
    reader = open_reader(context, server.url)
    page = reader.page
    page.get_by_role("button", name="What happens to deleted documents?").wait_for()
    assert violations(page) == []
    upstream.script(Reply(pieces=(RICH,)))
    reader.ask("What happens to deleted documents and broken files?")
    reader.answered()
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_role("form", name="More about your feedback").wait_for()
    page.get_by_role("radio", name="Incomplete").check()
    assert violations(page) == []
    page.get_by_role("button", name="Not now").click()
    page.locator(".chip").first.click()
    expect(page.locator("mark")).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit and ask again").click()
    if size == NARROW:
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Conversations").click()
    assert violations(page) == []
    context.close()


def test_no_violation_where_a_key_is_asked_for(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.support.serving import running

    with running(tmp_path_factory.mktemp("keys"), require_keys=True) as server:
        context = browser.new_context(bypass_csp=True)
        page = context.new_page()
        page.goto(server.url)
        page.get_by_label("Key", exact=True).fill("lk_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        assert violations(page) == []
        context.close()
