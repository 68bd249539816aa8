"""The gateway in a browser (spec 08): pages that work without script, and keep what they show to themselves."""

from __future__ import annotations

from lafscli.gateway.pages.acts import act
from lafscli.gateway.pages.objects import info
from lafscli.gateway.pages.render import error_page, static
from lafscli.gateway.pages.views import directory, front

__all__ = ["act", "directory", "error_page", "front", "info", "static"]
