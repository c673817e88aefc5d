"""Pages in a real browser."""

from pathlib import Path
from typing import Any


def opened(browser: Any, path: Path, **settings: Any) -> tuple[Any, list[str]]:
    """The page, and what went wrong or was asked for while it opened."""
    context = browser.new_context(**settings)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if not request.url.startswith((path.as_uri(), "data:"))
            else None
        ),
    )
    page.goto(path.as_uri())
    return page, complaints


def faults(page: Any, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]} {fault['nodes'][0]['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
