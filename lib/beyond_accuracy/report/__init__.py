"""The report: builds it from the notebooks, renders its pages, and makes the pages that are no notebooks."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PageView:
    """What the shell and the front page need to know about one page."""

    name: str  # file stem
    title: str = ""
    status: str = "absent"  # ok, failed, input, missing, absent
    message: str = ""
    lead: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # how the page was made, for its footer
    claim: str = ""  # what it says, in a few words

    @property
    def href(self) -> str:
        """Address of the page, relative to the report's folder."""
        return f"{self.name}.html"
